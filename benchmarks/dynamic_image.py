"""Dynamic inference on pictures: exits in a network of convolutions, and a branch by a picture's size.

    python benchmarks/dynamic_image.py --data ../shared/data

Exits: a ResNet-20 for CIFAR-10 gets exits and learns from itself; gates are set on test pictures that are
not reported. Branch: half the pictures come at 32 pixels and half at 64; the network for 64 (six layers
deeper) answers all of them, the small ones enlarged, or a shallower one answers the small ones as they
are. Both programs run in ONNX Runtime on one thread, in turn with the network alone, a picture at a time.

Networks and trainings are kept in build/benchmarks. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

import cifar
import tables
from nets import ResNet14, ResNet20
from openglm import AutoModel
from openglm.data.dataset import Dataset, Sample
from openglm.device import profile
from openglm.device.energy import energy_mj
from openglm.device.latency import predict
from openglm.dynamic.program import ProgramRunner, Trace, open_file
from openglm.dynamic.samples import Samples
from openglm.model.analysis.statistics import analyse
from openglm.model.extra_outputs import plain
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.branch import Branch
from openglm.passes.contract import Context, Draft
from openglm.passes.distil import Distil
from openglm.passes.early_exit import EarlyExit
from openglm.passes.fuse import Fuse
from openglm.passes.program import ProgramOfExits, drafted
from openglm.passes.structure.segments import Cuts
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import Runner
from openglm.search.trial import write_draft

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks" / "dynamic-image"
SETTING = 4000
"""Of the test pictures, the first ones set gates; the others are reported."""
EXITS, STEPS, BATCH = 3, 2000, 64
MAX_DROP = 0.005
"""Of accuracy, what gates may cost."""
SMALL, LARGE = 32, 64
"""Sides of the pictures that the branch tells apart, in pixels."""
DEEP: tuple[cifar.Stage, ...] = ((LARGE, 90_000, 128, 4e-3),)
SHALLOW: tuple[cifar.Stage, ...] = ((SMALL, 300_000, 128, 4e-3),)
PHONE = "cortex-a53-2gb"
TIMED = 60
LESS = 0.3
"""Of the work, what has to be saved on average."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10-jpeg/")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts, met = [], True
    for part in (exits, branch):
        rows, title = part(given.data)
        text, passed = compared(rows, given.rounds)
        texts.append(f"{title}\n\n{text}")
        met &= passed
    versions = {name: version(name) for name in ("onnxruntime", "torch")}
    how = f"Medians of {given.rounds} interleaved rounds."
    tables.publish("dynamic image", "\n\n".join(texts), given, versions, how)
    return 0 if met else 1


@dataclass(frozen=True)
class Row:
    """A way to answer pictures, the static one first."""

    name: str
    runner: Runner | ProgramRunner
    pictures: list[np.ndarray]
    """What is answered, one at a time."""
    labels: np.ndarray
    macs: np.ndarray
    """Multiply-accumulates of each picture."""
    energy: np.ndarray
    """Millijoules of each picture on the phone, predicted."""


def compared(rows: list[Row], rounds: int) -> tuple[str, bool]:
    """The table, and whether the program, which is last, meets the target."""
    right = [_right(row) for row in rows]
    places = np.random.default_rng(cifar.SEED).permutation(len(right[0]))[:TIMED]
    calls = {
        row.name: measure.running(row.runner, [{"pixel_values": row.pictures[place]} for place in places])
        for row in rows
    }
    times = measure.interleaved(calls, rounds=rounds)
    header = ["", "accuracy", "work, M", "ms", "x", f"mJ on {PHONE}, predicted"]
    first = times[rows[0].name]
    body = [
        [
            row.name,
            f"{answered.mean():.4f}",
            f"{row.macs.mean() / 1e6:.1f}",
            f"{np.median(times[row.name]) / len(places):.3f}",
            f"{measure.speedup(first, times[row.name]):.2f}",
            f"{row.energy.mean():.2f}",
        ]
        for row, answered in zip(rows, right, strict=True)
    ]
    static, program = rows[0], rows[-1]
    saved = 1 - program.macs.mean() / static.macs.mean()
    difference = right[-1].astype(float) - right[0]
    error = difference.std() / np.sqrt(len(difference))
    met = saved >= LESS and difference.mean() >= -error
    told = (
        f"- {'PASS' if met else 'MISS'}: at least {LESS:.0%} less work at no loss: {saved:.0%} less work, "
        f"{1 - program.energy.mean() / static.energy.mean():.0%} less energy as predicted, accuracy "
        f"{100 * difference.mean():+.2f} ± {100 * error:.2f} points over {len(difference)} pictures"
    )
    return f"{tables.markdown(header, body, 1)}\n\n{told}", met


def _right(row: Row) -> np.ndarray:
    said = [next(iter(row.runner.run({"pixel_values": one}).values())).argmax() for one in row.pictures]
    return np.array(said) == row.labels


def exits(data: Path) -> tuple[list[Row], str]:
    """ResNet-20 as it is, and with exits."""
    net = cifar.trained(data, FOLDER.parent / "resnet20.pt", ResNet20, cifar.RESNET)
    whole = _wrapped(net, SMALL)
    pictures, labels = cifar.images(data, "test")
    context = Context(
        calibration=lambda: iter([{"pixel_values": pictures[:1].numpy()}]),
        teacher=whole,
        training=_dataset(*cifar.images(data, "train")),
        checkpoint=FOLDER / "exits",
        trained=lambda _, words: print(f"exits: {words}", end="\r", flush=True),
    )
    model = EarlyExit(exits=EXITS).apply(whole, context).model
    model = Distil(steps=STEPS, batch_size=BATCH, augment="mirror_shift").apply(model, context).model
    graph: ir.Model = Fuse().apply(model.graph, Context()).graph
    setting, shown = pictures[:SETTING], pictures[SETTING:]
    samples = Samples.of(
        ({"pixel_values": picture[None].numpy()}, float(label))
        for picture, label in zip(setting, labels[:SETTING], strict=True)
    )
    probe = samples.inputs[0]
    cuts = Cuts.of(graph)
    gates, segments = ProgramOfExits(max_drop=MAX_DROP).settle(graph, cuts, samples, probe)
    draft = drafted(graph, cuts, gates, probe, segments)
    inputs = [picture[None].numpy() for picture in shown]
    truth = labels[SETTING:].numpy()
    trained, first = plain(graph), Fuse().apply(whole.graph, Context()).graph
    rows = [
        _static("ResNet-20", first, inputs, truth),
        _static("the same, after training with exits", trained, inputs, truth),
        _program("with exits", draft, trained, inputs, truth),
    ]
    return rows, f"**Exits.** {' '.join(gates.notes)} Reported on {len(truth)} other test pictures."


def branch(data: Path) -> tuple[list[Row], str]:
    """A deep network for all pictures, and one beside a shallow network for the small ones."""
    deep = _wrapped(cifar.trained(data, FOLDER / "deep.pt", ResNet20, DEEP), LARGE, free=True)
    shallow = _wrapped(cifar.trained(data, FOLDER / "shallow.pt", ResNet14, SHALLOW), SMALL, free=True)
    path = FOLDER / "shallow.onnx"
    large, small = (Fuse().apply(model.graph, Context()).graph for model in (deep, shallow))
    onnx_file.write(small, path)
    draft = Branch(small=str(path), limit=SMALL).apply(large, Context())
    pictures, labels = cifar.images(data, "test")
    shown, truth = pictures[SETTING:], labels[SETTING:].numpy()
    enlarged = [cifar.enlarge(picture[None], LARGE).numpy() for picture in shown]
    mixed = [one if place % 2 else shown[place][None].numpy() for place, one in enumerate(enlarged)]
    rows = [
        _static("ResNet-20 at 64 for all", large, enlarged, truth),
        _program("ResNet-14 for those of 32, ResNet-20 for those of 64", draft, large, mixed, truth),
    ]
    said = (
        f"Half the pictures come at {SMALL} pixels, half at {LARGE}; the network alone takes all at {LARGE}."
    )
    return rows, f"**Branch.** {said}"


def _wrapped(net: torch.nn.Module, size: int, *, free: bool = False) -> Model:
    """A network as our library sees it; `free` where pictures may have any size."""
    dims = {axis: torch.export.Dim(name, min=8) for axis, name in ((2, "height"), (3, "width"))}
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1), **dims}} if free else None
    return AutoModel.wrap(
        net, (torch.zeros(2, 3, size, size),), name=type(net).__name__,
        task="image-classification", dynamic_shapes=shapes,
    )  # fmt: skip


def _dataset(pictures: torch.Tensor, labels: torch.Tensor) -> Dataset:
    def read() -> Iterator[Sample]:
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            yield Sample({"pixel_values": picture.numpy()}, label)

    return Dataset("CIFAR-10", read, labelled=True)


def _static(name: str, graph: ir.Model, pictures: list[np.ndarray], labels: np.ndarray) -> Row:
    path = FOLDER / f"{name.replace(' ', '-')}.onnx"
    onnx_file.write(graph, path)
    cost = _cost(graph, pictures[0].shape[-1])
    costs = np.tile(cost, (len(pictures), 1)).T
    return Row(name, open_file(path, threads=1), pictures, labels, *costs)


def _program(name: str, draft: Draft, whole: ir.Model, pictures: list[np.ndarray], labels: np.ndarray) -> Row:
    folder = FOLDER / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    runner: Any = open_file(write_draft(draft, specs(whole.graph.outputs), folder), threads=1)
    known: dict[tuple[str, int], np.ndarray] = {}
    costs = []
    for picture in pictures:
        trace: Trace = runner.traced({"pixel_values": picture})[1]
        total = np.zeros(2)
        for node in trace.rows[0].nodes:
            if node in draft.graphs:
                key = node, picture.shape[-1]
                if key not in known:
                    known[key] = _cost(draft.graphs[node], picture.shape[-1])
                total += known[key]
        costs.append(total)
    return Row(name, runner, pictures, labels, *np.array(costs).T)


def _cost(graph: ir.Model, side: int) -> np.ndarray:
    """Multiply-accumulates and, on a core of the phone, predicted millijoules, for one picture."""
    sizes = {
        name: side if axis > 1 else 1
        for spec in specs(graph.graph.inputs)
        for axis, name in enumerate(spec.shape)
        if isinstance(name, str)
    }
    statistics = analyse(graph, sizes)
    phone = profile.load(PHONE)
    latency = predict(statistics, phone, phone.cpu, 1)
    assert latency is not None
    return np.array([statistics.macs, energy_mj(latency)])


if __name__ == "__main__":
    sys.exit(main())
