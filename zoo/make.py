"""Makes open-autoglm-base from all-MiniLM-L6-v2, by this project's own passes.

    python zoo/make.py --data ../shared/data/glue

`--data` holds the folders SST-2, CoLA, MRPC and STS-B, as GLUE has them. The encoder is fine-tuned on
all four at once; then exits after every layer and thresholds for tokens learn from its end; then its
weights are rounded to 8 bits and gates are set on rows that were held out. What is done is kept in
build/zoo, and goes on where it was stopped. The package in zoo/open-autoglm-base gets the result.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import tasks
import torch
from safetensors.torch import save_file

from openglm import AutoModel, Model
from openglm.data.dataset import Dataset, Sample
from openglm.dynamic.samples import Samples
from openglm.glue.finetuning import Plan, finetune
from openglm.glue.tasks import Task
from openglm.hashing import sha256
from openglm.passes.contract import Context
from openglm.passes.distil import Distil
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.early_exit import EarlyExit
from openglm.passes.fuse import Fuse
from openglm.passes.program import Gates, ProgramOfExits
from openglm.passes.structure.segments import Cuts
from openglm.passes.token_pruning import TokenPruning
from openglm.training.loop import Progress

HOME = Path(__file__).parent
WORK = HOME.parent / "build" / "zoo"
PACKAGE = HOME / "open-autoglm-base" / "open_autoglm_base"
SCALE = ".scale"
"""What the package adds to a weight's name for the scales of its rows."""
STEPS = 800
"""For which exits and thresholds learn."""
AFTER = (0, 2, 4)
"""Blocks that tokens may be dropped behind."""
MAX_DROP = 0.02
"""Of accuracy, what gates may cost: half each those of exits and of tokens."""
EVERY_S = 20.0
"""Between two lines on how a training goes."""
ENCODER = "all-minilm-l6-v2"
TASK = Task("four tasks", {}, ("accuracy",), ("no", "yes"), dev=dict.fromkeys(("sst-2", "cola", "mrpc"), ""))
PLAN = Plan(epochs=1, batch_size=32, learning_rate=8e-5, seed=tasks.SEED)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with GLUE's folders")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    folder = finetuned(given.data)
    model = with_exits(folder, given.data)
    write(rounded(model), folder, given.data)
    return 0


def finetuned(data: Path) -> Path:
    """The folder of the encoder, fine-tuned on all tasks."""
    folder = WORK / "finetuned"
    if not folder.is_dir():
        learnt, _ = tasks.training(data)
        found = finetune(ENCODER, TASK, learnt, tasks.judging(data), folder, PLAN, _told())
        print(f"fine-tuned in {found.history.seconds:.0f} s, held out: {found.scores}", flush=True)
    return folder


def with_exits(folder: Path, data: Path) -> Model:
    """The fine-tuned model with exits and thresholds that have learnt."""
    model = AutoModel.from_pretrained(folder)
    context = context_of(model, data, WORK / "exits")
    for step in (
        EarlyExit(seed=tasks.SEED),
        TokenPruning(after=AFTER),
        Distil(steps=STEPS, alpha=1.0, seed=tasks.SEED),
    ):
        model = step.apply(model, context).model
    return model


def context_of(model: Model, data: Path, checkpoint: Path) -> Context:
    """What passes need that learn from a model, on all texts of the tasks without their labels."""
    processor = model.processor
    assert processor is not None
    learnt, _ = tasks.training(data)
    texts = {json.dumps(sample.inputs, sort_keys=True): Sample(sample.inputs) for sample in learnt}
    last = [0.0]

    def tell(share: float, words: str) -> None:
        if time.monotonic() - last[0] > EVERY_S:
            last[0] = time.monotonic()
            print(f"{checkpoint.name}: {words}", flush=True)

    return Context(
        calibration=lambda: (processor([sample.inputs]) for sample in list(texts.values())[:64]),
        teacher=model,
        training=Dataset("GLUE, four tasks", lambda: iter(texts.values()), labelled=False),
        checkpoint=checkpoint,
        trained=tell,
    )


def rounded(model: Model) -> Model:
    """The model with its matrices on a grid of 8 bits, row by row."""
    module = copy.deepcopy(model.module)
    state = {
        name: _unpacked(*_packed(tensor)) if tensor.dim() == 2 else tensor
        for name, tensor in module.state_dict().items()
    }
    module.load_state_dict(state)
    return model.with_module(module)


def _packed(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = (tensor.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _unpacked(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return packed.float() * scale[:, None]


def held_out(model: Model, data: Path) -> Samples:
    """The rows that gates are set on, with the answers that are right."""
    _, held = tasks.training(data)
    processor = model.processor
    assert processor is not None
    return Samples.of((processor([sample.inputs]), float(sample.label or 0)) for sample in held)


def gates(model: Model, data: Path) -> Gates:
    """What the held-out rows allow, on the graph as it runs on a phone."""
    graph: ir.Model = model.graph
    for step in (Fuse(), DynamicInt8()):
        graph = step.apply(graph, Context()).graph
    samples = held_out(model, data)
    found, _ = ProgramOfExits(max_drop=MAX_DROP).settle(graph, Cuts.of(graph), samples, longest(samples))
    return found


def longest(samples: Samples) -> Mapping[str, np.ndarray]:
    """The one with the most tokens."""
    return max(samples.inputs, key=lambda batch: batch["input_ids"].size)


def write(model: Model, folder: Path, data: Path) -> None:
    """The package's files."""
    found = gates(model, data)
    print(*found.notes, sep="\n", flush=True)
    target = PACKAGE / "model"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.module.state_dict().items():
        if tensor.dim() == 2:
            tensors[name], tensors[name + SCALE] = _packed(tensor)
        else:
            tensors[name] = tensor.clone()
    save_file(tensors, target / "model.safetensors")
    (target / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.startswith("openglm_")}
    config |= {"openglm_tasks": tasks.WORDS, "openglm_gates": found.model_dump(mode="json")}
    config["openglm_tokens_after"] = AFTER
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB, weights {sha256(target / 'model.safetensors')}", flush=True)


def _told() -> Callable[[Progress], None]:
    last = [0.0]

    def tell(progress: Progress) -> None:
        if time.monotonic() - last[0] > EVERY_S:
            last[0] = time.monotonic()
            print(f"step {progress.step} of {progress.total}, loss {progress.loss:.3f}", flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
