"""Compression against the field: two convolutional networks made small and fast, by our search and others'.

    python benchmarks/compress_image.py --data ../shared/data

A ResNet-20 and a MobileNetV2 are trained on CIFAR-10 here, once. Everything that chooses is guided by
held-out pictures; others are reported. All models are run in turn, round by round, on one thread, a
picture at a time. Exits with 1 where a target is missed.

Networks, models and searches are kept in build/benchmarks; delete it to start anew.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import cifar
import compress
import compress_peers
import peers
import tables
from compress import Case, Entrant
from nets import MobileNetV2, ResNet20
from openglm import AutoModel
from openglm.data import Dataset, Sample
from openglm.model.model import Model
from openglm.model.processors.processor import Processor
from openglm.model.sources import onnx_file
from quantize_case import by_peer

FOLDER = compress.FOLDER / "compress"
HELD_OUT = 2000
"""Of the test pictures, the first ones guide; the others are reported."""
SEARCH_S, OLIVE_S = 1140, 300
"""For our search, and for Olive's, which trains nothing."""
TIMED, CALIBRATION = 50, 256
METHODS = ("MinMax", "Percentile", "Entropy")


@dataclass(frozen=True)
class Kind:
    """A network, and how a peer trains it after pruning: about five minutes on two cores."""

    title: str
    net: type[MobileNetV2 | ResNet20]
    size: int
    """Side of the pictures."""
    weights: str
    stages: tuple[cifar.Stage, ...]
    retrained: cifar.Stage


KINDS = {
    "resnet20": Kind(
        "ResNet-20", ResNet20, 32, "resnet20.pt", cifar.RESNET, (32, 150_000, 128, 2e-3)
    ),
    "mobilenetv2": Kind(
        "MobileNetV2", MobileNetV2, 64, "mobilenetv2-64.pt", cifar.SMALL, (64, 60_000, 64, 1e-3)
    ),
}  # fmt: skip


def main() -> int:
    given = compress.options(
        (__doc__ or "").partition("\n")[0],
        tuple(KINDS),
        ("cifar10-jpeg/train.tar", "cifar10-jpeg/test.tar"),
        SEARCH_S,
    )
    versions = compress_peers.versions()
    records = []
    for name in given.parts:
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        part = _Part(KINDS[name], given.data, folder)
        entrants = [Entrant("fp32", "fp32", part.fp32), *part.peers()]
        if given.prepare:
            continue
        search = compress.searched(
            part.model(), folder / "openglm", fresh=given.fresh, seconds=given.time,
            max_drop=compress.MAX_DROP, data=part.rows("held-out"), train=part.rows("train"),
            evaluation_samples=HELD_OUT // 2, calibration_samples=CALIBRATION,
        )  # fmt: skip
        text, found = compress.compared(part.case, entrants, [search], given.rounds)
        how = f"Medians of {given.rounds} interleaved rounds."
        tables.publish(f"compress {name}", text, given, versions, how)
        records.append(found)
    return compress.finish(records, given)


class _Part:
    """One network with its pictures and its peers."""

    def __init__(self, kind: Kind, data: Path, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.net = cifar.trained(data, compress.FOLDER / kind.weights, kind.net, kind.stages)
        pictures, labels = cifar.images(data, "test")
        self.pictures = {
            "train": cifar.images(data, "train"),
            "held-out": (pictures[:HELD_OUT], labels[:HELD_OUT]),
            "test": (pictures[HELD_OUT:], labels[HELD_OUT:]),
        }
        self.fp32 = folder / "fp32.onnx"
        if not self.fp32.is_file():
            onnx_file.write(self.model().graph, self.fp32)
        shown, classes = self.pictures["test"]
        self.case = Case(
            title=kind.title,
            about=(
                f"{kind.size} x {kind.size}, one picture at a time, {TIMED} in a round; trained on CIFAR-10. "
                f"The loss is that of the accuracy over {len(classes)} test pictures, with the standard "
                f"error of its difference to fp32's. Searches, ours and others', were guided by {HELD_OUT} "
                "other test pictures; the rows 'fastest within' alone are picked by what is reported, among "
                "the models that our search accepted."
            ),
            reported="test",
            samples=list(shown),
            labels=classes.tolist(),
            timed=list(shown[:TIMED]),
            prepare=self._prepare,
            faster=3.0,
            folder=folder,
            shapes={"pixel_values": [1, 3, kind.size, kind.size]},
        )
        self.guide = compress_peers.Guide(
            batches=[self._prepare(picture) for picture in self.pictures["held-out"][0]],
            labels=self.pictures["held-out"][1].tolist(),
            calibration=[self._prepare(picture) for picture in self.pictures["train"][0][:CALIBRATION]],
            typical=self._prepare(shown[0]),
        )

    def _prepare(self, picture: torch.Tensor, own: Processor | None = None) -> peers.Batch:
        return {"pixel_values": cifar.enlarge(picture[None], self.kind.size).numpy()}

    def model(self, net: torch.nn.Module | None = None) -> Model:
        """A network as our library sees it."""
        example = (torch.zeros(1, 3, self.kind.size, self.kind.size),)
        return AutoModel.wrap(net or self.net, example, name=self.kind.title, task="image-classification")

    def rows(self, part: str) -> Dataset:
        """Pictures for a search, enlarged as they are read, in half precision: whole they fill memory."""
        pictures, labels = self.pictures[part]

        def read() -> Iterator[Sample]:
            for picture, label in zip(pictures, labels.tolist(), strict=True):
                pixels = cifar.enlarge(picture[None], self.kind.size)[0]
                yield Sample({"pixel_values": pixels.half().numpy()}, label)

        return Dataset(f"CIFAR-10 {part}", read, labelled=True)

    def peers(self) -> list[Entrant]:
        """The peers' models, made where they are not there."""
        version = compress_peers.versions()
        ort, olive, nncf, pruning = (
            f"{name}-{version[name]}" for name in ("onnxruntime", "olive-ai", "nncf", "torch-pruning")
        )
        path = by_peer(self.folder / f"{ort}.onnx", self._static, self.fp32)
        found = [Entrant("onnxruntime.quantization, static", "peer", path)]
        path = by_peer(
            self.folder / f"{olive}.onnx", compress_peers.olive_search, self.fp32, self.guide,
            transformer=None, seconds=OLIVE_S,
        )  # fmt: skip
        found.append(Entrant(compress_peers.olive_told(path, OLIVE_S), "peer", path))
        path = by_peer(
            self.folder / f"{nncf}.xml", compress_peers.nncf_controlled, self.fp32, self.guide,
            transformer=False,
        )  # fmt: skip
        found.append(Entrant("NNCF with accuracy control", "peer", path, "OpenVINO"))
        found.append(Entrant("default precision", "peer", self.fp32, "OpenVINO"))
        for ratio in compress_peers.RATIOS:
            name = f"{pruning}-{100 * ratio:.0f}"
            float32 = by_peer(self.folder / f"{name}.onnx", self._pruned, self.fp32, ratio)
            path = by_peer(self.folder / f"{name}-int8.onnx", self._static, float32)
            told = f"torch-pruning {ratio:.0%} + onnxruntime.quantization"
            found.append(Entrant(told, "peer", path))
        return found

    def _static(self, source: Path, target: Path) -> None:
        """onnxruntime.quantization with the calibration method that suits the held-out pictures best."""
        best = -1.0
        for method in METHODS:
            tried = target.with_suffix(f".{method}.onnx")
            peers.ort_static(source, tried, self.guide.calibration, method=method)
            accuracy = self.guide.accuracy(Entrant("", "peer", tried).open())
            if accuracy > best:
                best = accuracy
                tried.replace(target)
            tried.unlink(missing_ok=True)

    def _pruned(self, source: Path, target: Path, ratio: float) -> None:
        """torch-pruning, then training as the network itself was trained."""
        net = copy.deepcopy(self.net)
        pictures, labels = self.pictures["train"]
        batches = [
            (cifar.enlarge(pictures[start : start + 32], self.kind.size), labels[start : start + 32])
            for start in range(0, 32 * compress_peers.TAYLOR_BATCHES, 32)
        ]
        compress_peers.pruned_net(net, batches, ratio)
        torch.manual_seed(cifar.SEED)
        cifar.train(net, pictures, labels, (self.kind.retrained,))
        net.to(memory_format=torch.contiguous_format).eval()
        onnx_file.write(self.model(net).graph, target)


if __name__ == "__main__":
    sys.exit(main())
