"""Compression against the field: a text classifier made small and fast, by our search and by other tools.

    python benchmarks/compress_text.py --data ../shared/data

all-MiniLM-L6-v2 is fine-tuned on SST-2 here, once. Everything that chooses is guided by held-out
sentences; the dev set is only reported. All models are run in turn, round by round, on one thread,
over sentences of dev one at a time. Exits with 1 where a target is missed.

Models, searches and trainings are kept in build/benchmarks; delete it to start anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertForSequenceClassification

import compress
import compress_peers
import peers
import sst2
import tables
from compress import Case, Entrant, Search
from openglm import AutoModel
from openglm.model.processors.processor import Processor
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.layers import LayerPruning
from openglm.training.distillation import distil
from quantize_case import Judgement, by_peer, chance

FOLDER = compress.FOLDER / "compress" / "text"
PARTS = ("search", "distillation")
SEARCH_S, OLIVE_S = 1140, 600
"""For each of our searches, and for Olive's, whose space is small: most of it gives the same few models."""
TIMED, CALIBRATION = 50, 300
LENGTH = 25
"""Tokens that a search measures at: dev's mean."""
BERT = {"num_heads": 12, "hidden_size": 384}
"""As ONNX Runtime's and Olive's optimizers are told."""
PRUNED_EPOCHS = 1
"""Of training after pruning by a peer, as many as the model itself had."""
KEPT_LAYERS = (0, 2, 4)
STEPS, SEEDS = 500, (0, 1)
ALPHAS = {"labels alone": 0.0, "distilled": 0.7}


def main() -> int:
    given = compress.options(
        (__doc__ or "").partition("\n")[0], PARTS, ("glue/SST-2/train.tsv", "glue/SST-2/dev.tsv"), SEARCH_S
    )
    versions = compress_peers.versions()
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = sst2.finetuned(given.data, compress.FOLDER / "sst2")
    records = []
    if "search" in given.parts:
        case, entrants, search = _entrants(given, source)
        if not given.prepare:
            text, found = compress.compared(case, entrants, search(), given.rounds)
            how = f"Medians of {given.rounds} interleaved rounds."
            tables.publish("compress text", text, given, versions, how)
            records.append(found)
    if "distillation" in given.parts and not given.prepare:
        text, found = _distillation(given.data, source)
        tables.publish("compress distillation", text, given, {"torch": torch.__version__}, "")
        records.append(found)
    return compress.finish(records, given)


def _entrants(given: Any, source: Path) -> tuple[Case, list[Entrant], Callable[[], list[Search]]]:
    """What is compared: the case, fp32 and the peers' models, and what makes ours."""
    model = AutoModel.from_pretrained(source)
    train, heldout = sst2.split(given.data, compress.FOLDER / "sst2")
    dev = sst2.rows(given.data / "glue" / "SST-2" / "dev.tsv")
    texts = [text for text, _ in dev]

    def prepare(text: str, own: Processor | None) -> peers.Batch:
        processor = own or model.processor
        assert processor is not None
        return processor([{"text": text}])

    case = Case(
        title="all-MiniLM-L6-v2 on SST-2",
        about=(
            f"Sentences of SST-2's dev one at a time, each at its own length: a round runs {TIMED} of them, "
            f"and times are those of one. The loss is that of accuracy over all {len(dev)}, with the "
            "standard error of its difference to fp32's: so many sentences tell apart about half a point. "
            "Searches, ours and others', saw held-out sentences of SST-2's train only, never dev; the rows "
            "'fastest within' alone are picked by dev, among the models that our searches accepted."
        ),
        reported="dev",
        samples=texts,
        labels=[label for _, label in dev],
        timed=[texts[index] for index in compress_peers.spread(TIMED, len(texts))],
        prepare=prepare,
        faster=4.0,
        folder=FOLDER,
    )
    shown, judging = sst2.rows(train), sst2.rows(heldout)
    batches = [prepare(text, None) for text, _ in judging]
    # ONNX Runtime's histograms take inputs of one length only.
    inputs = (prepare(text, None) for text, _ in shown)
    alike = (batch for batch in inputs if batch["input_ids"].size == LENGTH)
    guide = compress_peers.Guide(
        batches=batches,
        labels=[label for _, label in judging],
        calibration=list(islice(alike, CALIBRATION)),
        typical=min(batches, key=lambda batch: abs(batch["input_ids"].size - LENGTH)),
    )
    fp32 = FOLDER / "fp32.onnx"
    if not fp32.is_file():
        onnx_file.write(model.graph, fp32)
    entrants = [Entrant("fp32", "fp32", fp32), *_peers(guide, source, fp32, shown)]

    def searches() -> list[Search]:
        return [
            compress.searched(
                model, FOLDER / f"openglm-{drop:g}", fresh=given.fresh, seconds=given.time, max_drop=drop,
                data=heldout, train=train, dims={"batch": 1, "sequence": LENGTH},
                evaluation_samples=len(judging) // 2, calibration_samples=128,
            )
            for drop in compress.DROPS
        ]  # fmt: skip

    return case, entrants, searches


def _peers(guide: compress_peers.Guide, source: Path, fp32: Path, shown: list[sst2.Row]) -> list[Entrant]:
    version = compress_peers.versions()
    ort, olive, nncf, pruning = (
        f"{name}-{version[name]}" for name in ("onnxruntime", "olive-ai", "nncf", "torch-pruning")
    )
    exported = by_peer(FOLDER / "exported.onnx", _exported, source)
    found = []
    path = by_peer(FOLDER / f"{ort}-dynamic.onnx", peers.ort_dynamic, fp32, per_channel=True)
    found.append(Entrant("onnxruntime.quantization, dynamic", "peer", path))
    path = by_peer(FOLDER / f"{ort}-fused.onnx", compress_peers.ort_fused_int8, exported, **BERT)
    found.append(Entrant("onnxruntime.transformers + quantization, dynamic", "peer", path))
    path = by_peer(
        FOLDER / f"{olive}.onnx", compress_peers.olive_search, exported, guide,
        transformer=BERT, seconds=OLIVE_S,
    )  # fmt: skip
    found.append(Entrant(compress_peers.olive_told(path, OLIVE_S), "peer", path))
    path = by_peer(FOLDER / f"{nncf}.xml", compress_peers.nncf_controlled, fp32, guide, transformer=True)
    found.append(Entrant("NNCF with accuracy control", "peer", path, "OpenVINO"))
    found.append(Entrant("default precision", "peer", fp32, "OpenVINO"))
    for ratio in compress_peers.RATIOS:
        name = f"{pruning}-{100 * ratio:.0f}"
        float32 = by_peer(FOLDER / f"{name}.onnx", _pruned, source, shown, ratio)
        told = f"torch-pruning {ratio:.0%}"
        path = by_peer(FOLDER / f"{name}-int8.onnx", peers.ort_dynamic, float32, per_channel=True)
        found.append(Entrant(f"{told} + onnxruntime.quantization", "peer", path))
        path = by_peer(
            FOLDER / f"{name}-fused-int8.onnx", compress_peers.ort_fused_int8, float32,
            **{**BERT, "num_heads": round(BERT["num_heads"] * (1 - ratio))},
        )  # fmt: skip
        found.append(Entrant(f"{told} + onnxruntime.transformers + quantization", "peer", path))
    return found


def _bert(source: Path) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()


def _exported(source: Path, target: Path) -> None:
    compress_peers.export_bert(_bert(source), target)


def _pruned(source: Path, target: Path, shown: list, ratio: float) -> None:
    """torch-pruning, then training as the model itself was trained."""
    model, tokenizer = _bert(source), AutoTokenizer.from_pretrained(source)
    picked = [shown[i] for i in compress_peers.spread(32 * compress_peers.TAYLOR_BATCHES, len(shown))]
    batches = []
    for start in range(0, len(picked), 32):
        texts, labels = zip(*picked[start : start + 32], strict=True)
        inputs = tokenizer(
            list(texts), padding=True, truncation=True, max_length=sst2.LONGEST, return_tensors="pt"
        )
        batches.append((inputs, torch.tensor(labels)))
    compress_peers.pruned_bert(model, batches, ratio)
    torch.manual_seed(sst2.SEED)
    sst2.train(model, tokenizer, shown, PRUNED_EPOCHS)
    compress_peers.export_bert(model, target)


def _distillation(data: Path, source: Path) -> tuple[str, dict]:
    """A student of half the layers, trained on the labels alone and from its teacher too."""
    teacher = AutoModel.from_pretrained(source)
    student = LayerPruning(layers=KEPT_LAYERS).apply(teacher, Context()).model
    train, heldout = sst2.split(data, compress.FOLDER / "sst2")
    judged_on = {"held-out": heldout, "dev": data / "glue" / "SST-2" / "dev.tsv"}
    folder = FOLDER / "distillation"
    folder.mkdir(exist_ok=True)
    kept = folder / f"figures-{STEPS}.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}

    def figures(name: str, make: Any) -> dict[str, Judgement]:
        if name not in known:
            module = make().module
            known[name] = {on: _right(module, source, sst2.rows(path)) for on, path in judged_on.items()}
            kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
        return {on: Judgement(text.count("1") / len(text), text) for on, text in known[name].items()}

    def trained(alpha: float, seed: int) -> Any:
        print(f"training a student: alpha {alpha:g}, seed {seed}, {STEPS} steps", flush=True)
        return distil(
            teacher, student, train, temperature=3.0, alpha=alpha, steps=STEPS, batch_size=32, seed=seed,
            checkpoint=folder / f"{STEPS}-{alpha:g}-{seed}",
        )  # fmt: skip

    rows = [
        [f"the teacher, {teacher.config['num_hidden_layers']} layers", [figures("teacher", lambda: teacher)]],
        ["the student, not trained", [figures("student", lambda: student)]],
    ]
    for name, alpha in ALPHAS.items():
        by_seed = [figures(f"{alpha:g} {seed}", lambda a=alpha, s=seed: trained(a, s)) for seed in SEEDS]
        rows.append([f"the student, {name}", by_seed])
    lines = [
        [name, *(" / ".join(f"{found[on].value:.4f}" for found in by_seed) for on in judged_on)]
        for name, by_seed in rows
    ]
    gains = {}
    for on in judged_on:
        pairs = list(zip(rows[-1][1], rows[-2][1], strict=True))
        gain = float(np.mean([one[on].value - other[on].value for one, other in pairs]))
        error = float(np.mean([chance(one[on], other[on]) for one, other in pairs]))
        gains[on] = (gain, error)
    told = "; ".join(f"{on}: {100 * gain:+.2f} ± {100 * error:.2f}" for on, (gain, error) in gains.items())
    text = "\n\n".join(
        [
            f"Layers {', '.join(map(str, KEPT_LAYERS))} of the fine-tuned model, counted from 0, trained for "
            f"{STEPS} steps of 32 sentences on SST-2's train: on the labels alone, or with 0.7 of the loss "
            f"the distance from the teacher's answers at temperature 3. Accuracy with seeds "
            f"{' / '.join(map(str, SEEDS))}.",
            tables.markdown(["model", *judged_on], lines, left=1),
            f"Gained by distillation, in points, mean over seeds: {told}.",
        ]
    )
    return text, {"case": "distillation", "accuracy": lines, "gains": gains}


def _right(module: torch.nn.Module, source: Path, rows: list[sst2.Row]) -> str:
    """1 or 0 for each sentence: whether it is classified rightly."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    found = []
    with torch.no_grad():
        for text, label in rows:
            inputs = tokenizer(text, return_tensors="pt")
            output = module(**inputs)
            logits = output if torch.is_tensor(output) else output[0]
            found.append("01"[int(functional.softmax(logits, -1).argmax()) == label])
    return "".join(found)


if __name__ == "__main__":
    sys.exit(main())
