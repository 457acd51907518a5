"""Makes open-autoglm-base from all-MiniLM-L6-v2, by this project's own passes.

    python zoo/make.py --data ../shared/data/glue --sentences ../shared/data/tatoeba-en-zh/cmn.tsv

`--data` holds the folders SST-2, CoLA, MRPC and STS-B, as GLUE has them. The encoder learns which words of a
sentence are spoilt, and how alike texts are; a language model learns to judge CoLA's sentences and judges
others; the encoder is fine-tuned on all four tasks and these judgements at once; then exits after every
layer learn from its end, and it learns to do with fewer tokens; the network's weights go most of the way
back, and exits learn once more; then weights are rounded to 8 bits. What is done is kept in build/zoo, and
goes on where it was stopped. The package in zoo/open-autoglm-base gets the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pretraining
import tasks
import teacher
import torch
from open_autoglm_base import SCALE
from safetensors.torch import save_file

from openglm import AutoModel, Model
from openglm.data.dataset import Dataset, Sample
from openglm.glue.finetuning import Plan, copy_tokenizer, finetune
from openglm.glue.tasks import Task
from openglm.hashing import sha256
from openglm.passes.contract import Context
from openglm.passes.distil import Distil
from openglm.passes.early_exit import EarlyExit
from openglm.passes.token_pruning import TokenPruning
from openglm.training.loop import Progress

HOME = Path(__file__).parent
WORK = HOME.parent / "build" / "zoo"
PACKAGE = HOME / "open-autoglm-base" / "open_autoglm_base"
STEPS, RATE = 900, 6e-5
"""For how long, and how fast, exits learn, and the network to do with fewer tokens."""
KEPT = 0.75
"""Of the fine-tuned weights, the share in those that are kept. What the network itself answers gets worse
while exits learn; of the mean of the weights before and after it does not, and exits lose
little (Wortsman et al. 2022)."""
HEADS = 300
"""Steps for which exits learn once more, the network as it then is."""
AFTER = (2,)
"""Blocks that tokens may be dropped in, behind their attention."""
EVERY_S = 20.0
"""Between two lines on how a training goes."""
ENCODER = "all-minilm-l6-v2"
TASK = Task("four tasks", {}, ("accuracy",), ("no", "yes"), dev=dict.fromkeys(("sst-2", "cola", "mrpc"), ""))
PLAN = Plan(epochs=2, batch_size=64, learning_rate=8e-5, seed=tasks.SEED)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with GLUE's folders")
    parser.add_argument(
        "--sentences", type=Path, help="a file with an English sentence at every line's start"
    )
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    folder = finetuned(given.data, given.sentences)
    model = with_exits(folder, given.data)
    write(model, folder)
    return 0


def taught(data: Path, sentences: Path | None) -> dict[str, float]:
    """What the teacher says of sentences, by text."""
    kept, _ = tasks.split(data, tasks.TAUGHT)
    return teacher.answers(kept, [*kept, *tasks.further(data, sentences)], WORK, _told("teacher"))


def pretrained(data: Path, sentences: Path | None) -> Path:
    """The folder of the encoder that tells which words are spoilt, and how alike texts are."""
    folder = WORK / "pretrained"
    if not folder.is_dir():
        pretraining.pretrained(ENCODER, data, sentences, folder, _told("pretraining"))
    return folder


def finetuned(data: Path, sentences: Path | None = None) -> Path:
    """The folder of the encoder, fine-tuned on all tasks."""
    folder = WORK / "finetuned"
    if not folder.is_dir():
        encoder = pretrained(data, sentences)
        learnt = tasks.training(data, taught(data, sentences))
        found = finetune(str(encoder), TASK, learnt, tasks.judging(data), folder, PLAN, _told("encoder"))
        print(f"fine-tuned in {found.history.seconds:.0f} s, held out: {found.scores}", flush=True)
    return folder


def with_exits(folder: Path, data: Path) -> Model:
    """The fine-tuned model with exits that have learnt, and with tokens that may be dropped."""
    model = AutoModel.from_pretrained(folder)
    context = context_of(model, data, WORK / "exits")
    for step in (
        EarlyExit(seed=tasks.SEED),
        TokenPruning(after=AFTER),
        Distil(steps=STEPS, learning_rate=RATE, alpha=1.0, seed=tasks.SEED),
    ):
        model = step.apply(model, context).model
    assert context.teacher is not None
    model = averaged(model, context.teacher)
    heads = Distil(steps=HEADS, learning_rate=RATE, alpha=1.0, seed=tasks.SEED)
    return heads.apply(model, replace(context, checkpoint=WORK / "heads")).model


def averaged(model: Model, before: Model) -> Model:
    """The model with the mean of its weights and those before, in which only exits learn from now on."""
    module, given = deepcopy(model.module), before.module.state_dict()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name in given:
                weight.lerp_(given[name], KEPT)
            weight.requires_grad_(name.startswith("exits."))
    return model.with_module(module)


def context_of(model: Model, data: Path, checkpoint: Path) -> Context:
    """What passes need that learn from a model, on all texts of the tasks without their labels."""
    processor = model.processor
    assert processor is not None
    # As often as in fine-tuning: what hardly comes is forgotten.
    texts = [
        Sample(row.inputs)
        for task in tasks.TIMES
        for row in tasks.split(data, task)[0]
        for _ in range(row.times)
    ]
    say = _seldom()
    return Context(
        calibration=lambda: (processor([sample.inputs]) for sample in texts[:64]),
        teacher=model,
        training=Dataset("GLUE, four tasks", lambda: iter(texts), labelled=False),
        checkpoint=checkpoint,
        trained=lambda _, words: say(f"{checkpoint.name}: {words}"),
    )


def _packed(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as 8-bit numbers and a scale for each row."""
    scale = (tensor.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def write(model: Model, folder: Path) -> None:
    """The package's files; matrices are rounded to 8 bits, row by row."""
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
    config |= {"openglm_tasks": tasks.WORDS, "openglm_tokens_after": AFTER}
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    copy_tokenizer(folder, target)
    size = sum(file.stat().st_size for file in target.iterdir())
    print(f"{target}: {size / 1e6:.1f} MB, weights {sha256(target / 'model.safetensors')}", flush=True)


def _told(who: str) -> Callable[[Progress], None]:
    say = _seldom()
    return lambda progress: say(f"{who}: step {progress.step} of {progress.total}, loss {progress.loss:.3f}")


def _seldom() -> Callable[[str], None]:
    """Prints a line, unless the one before it was printed just now."""
    last = -EVERY_S

    def say(line: str) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY_S:
            last = time.monotonic()
            print(line, flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
