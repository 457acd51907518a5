"""The encoder of the quantization benchmark: all-MiniLM-L6-v2 on STS-B."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import peers
from openglm import AutoModel
from openglm.data import open_data
from openglm.metrics.metric import Evaluation
from openglm.metrics.spearman import Spearman
from openglm.model.sources import onnx_file
from quantize_case import Candidate, Case, Judgement, by_peer, by_us, float_row, spelled

SEQUENCE = 128
CALIBRATION = 300
OURS = (
    [{"pass": "fuse"}, {"pass": "dynamic_wi8_ai8"}],
    [{"pass": "fuse"}, {"pass": "dynamic_wi8_ai8", "per_channel": False}],
    [{"pass": "fuse"}, {"pass": "static_wi8_ai8", "method": "percentile"}],
)


def case(data: Path, folder: Path) -> Case:
    """The candidates, made in `folder` where they are not there."""
    model = AutoModel.from_pretrained("all-minilm-l6-v2")
    processor = model.processor
    assert processor is not None
    fp32 = folder / "fp32.onnx"
    if not fp32.is_file():
        print("exporting all-MiniLM-L6-v2", flush=True)
        onnx_file.write(model.graph, fp32)

    def batch(text: str) -> peers.Batch:
        return processor([{"text": text}])

    pairs = list(open_data(data / "glue" / "STS-B" / "dev.tsv"))
    texts = sorted({sample.inputs[side] for sample in pairs for side in ("text", "text_pair")})
    labels = np.array([sample.label for sample in pairs])

    def judge(run: peers.Run) -> Judgement:
        # One text at a time, at its own length, as a device runs them.
        found = {text: float_row(run(batch(text))) for text in texts}
        outputs = np.stack([[found[s.inputs["text"]], found[s.inputs["text_pair"]]] for s in pairs])
        evaluation = Evaluation({"sentence_embedding": outputs}, labels=labels, task="embedding", pairs=True)
        return Judgement(Spearman().score(evaluation).value)

    def calibration() -> Iterator[peers.Batch]:
        train = open_data(data / "glue" / "STS-B" / "train.tsv").take(CALIBRATION)
        return (batch(sample.inputs["text"]) for sample in train)

    long = batch(" ".join(texts[:SEQUENCE]))
    return Case(
        title="all-MiniLM-L6-v2",
        about=(
            f"Sequence {SEQUENCE}, batch 1. The loss is that of the Spearman correlation on STS-B dev, each "
            f"text at its own length; {CALIBRATION} texts of STS-B train calibrate what needs it."
        ),
        metric="Spearman",
        samples=len(pairs),
        candidates=_candidates(fp32, folder, calibration),
        latency_input={name: np.ascontiguousarray(array[:, :SEQUENCE]) for name, array in long.items()},
        judge=judge,
        allowed=0.005,
        faster=2.3,
        folder=folder,
    )


def _candidates(
    fp32: Path, folder: Path, calibration: Callable[[], Iterator[peers.Batch]]
) -> list[Candidate]:
    version = peers.versions()
    ort, olive, nncf = (f"{name}-{version[name]}" for name in ("onnxruntime", "olive-ai", "nncf"))
    found = [Candidate("fp32", "fp32", fp32)]
    for recipe in OURS:
        path = by_us(folder, fp32, recipe, calibration)
        found.append(Candidate(f"openglm {spelled(recipe)}", "ours", path))
    for per_channel in (False, True):
        how = "per channel" if per_channel else "per tensor"
        name = how.replace(" ", "-")
        path = by_peer(folder / f"{ort}-{name}.onnx", peers.ort_dynamic, fp32, per_channel=per_channel)
        found.append(Candidate(f"onnxruntime.quantization, dynamic, {how}", "peer", path))
        path = by_peer(folder / f"{olive}-{name}.onnx", peers.olive_dynamic, fp32, per_channel=per_channel)
        found.append(Candidate(f"Olive OnnxDynamicQuantization, {how}", "peer", path))
    path = by_peer(folder / f"{nncf}.onnx", peers.nncf_onnx, fp32, calibration(), transformer=True)
    found.append(Candidate("NNCF quantize, transformer", "peer", path))
    found.append(Candidate("fp32", "peer", fp32, "OpenVINO", "f32"))
    found.append(Candidate("default precision", "peer", fp32, "OpenVINO"))
    path = by_peer(folder / f"{nncf}.xml", peers.nncf_openvino, fp32, calibration(), transformer=True)
    found.append(Candidate("NNCF quantize, transformer", "peer", path, "OpenVINO"))
    return found
