"""The convolutional network of the quantization benchmark: MobileNetV2 trained on CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import cifar
import peers
from openglm import AutoModel
from openglm.model.sources import onnx_file
from quantize_case import Candidate, Case, Judgement, by_peer, by_us, float_row, spelled

CALIBRATION = 256
EVALUATION = 5000
OURS = (
    [{"pass": "fuse"}, {"pass": "static_wi8_ai8"}],
    [{"pass": "fuse"}, {"pass": "static_wi8_ai8", "method": "percentile"}],
    [{"pass": "fuse"}, {"pass": "static_wi8_ai8", "method": "entropy"}],
)


def case(data: Path, folder: Path) -> Case:
    """The candidates, made in `folder` where they are not there; the network is trained where it is not."""
    fp32 = folder / "fp32.onnx"
    if not fp32.is_file():
        net = cifar.trained(data, folder.parents[1] / "mobilenetv2-cifar10.pt")
        model = AutoModel.wrap(net, (torch.zeros(1, 3, cifar.SIZE, cifar.SIZE),), task="image-classification")
        onnx_file.write(model.graph, fp32)
    pictures, labels = (part[:EVALUATION] for part in cifar.images(data, "test"))
    shown, _ = cifar.images(data, "train")

    def judge(run: peers.Run) -> Judgement:
        right = [
            int(float_row(run(_batch(picture))).argmax()) == int(label)
            for picture, label in zip(pictures, labels, strict=True)
        ]
        return Judgement(sum(right) / len(right), "".join("01"[item] for item in right))

    def calibration() -> Iterator[peers.Batch]:
        return (_batch(picture) for picture in shown[:CALIBRATION])

    return Case(
        title="MobileNetV2",
        about=(
            f"{cifar.SIZE} x {cifar.SIZE}, batch 1, trained on CIFAR-10 enlarged. The loss is that of the "
            f"accuracy over {EVALUATION} test pictures; {CALIBRATION} training pictures calibrate."
        ),
        metric="Accuracy",
        samples=EVALUATION,
        candidates=_candidates(fp32, folder, calibration),
        latency_input=_batch(pictures[0]),
        judge=judge,
        allowed=0.01,
        faster=1.7,
        folder=folder,
    )


def _batch(picture: torch.Tensor) -> peers.Batch:
    return {"pixel_values": cifar.enlarge(picture[None]).numpy()}


def _candidates(
    fp32: Path, folder: Path, calibration: Callable[[], Iterator[peers.Batch]]
) -> list[Candidate]:
    version = peers.versions()
    ort, olive, nncf = (f"{name}-{version[name]}" for name in ("onnxruntime", "olive-ai", "nncf"))
    found = [Candidate("fp32", "fp32", fp32)]
    for recipe in OURS:
        path = by_us(folder, fp32, recipe, calibration)
        found.append(Candidate(f"openglm {spelled(recipe)}", "ours", path))
    for method in ("MinMax", "Percentile", "Entropy"):
        path = by_peer(folder / f"{ort}-{method}.onnx", peers.ort_static, fp32, calibration(), method=method)
        found.append(Candidate(f"onnxruntime.quantization, static, {method}", "peer", path))
    path = by_peer(folder / f"{olive}.onnx", peers.olive_static, fp32, calibration())
    found.append(Candidate("Olive OnnxStaticQuantization", "peer", path))
    path = by_peer(folder / f"{nncf}.onnx", peers.nncf_onnx, fp32, calibration(), transformer=False)
    found.append(Candidate("NNCF quantize", "peer", path))
    found.append(Candidate("fp32", "peer", fp32, "OpenVINO", "f32"))
    found.append(Candidate("default precision", "peer", fp32, "OpenVINO"))
    path = by_peer(folder / f"{nncf}.xml", peers.nncf_openvino, fp32, calibration(), transformer=False)
    found.append(Candidate("NNCF quantize", "peer", path, "OpenVINO"))
    return found
