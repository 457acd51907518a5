"""Every engine on every kind of model: whether its answers are the same, and how fast it is.

    python benchmarks/engines.py --data ../shared/data --silero silero_vad_op18_ifless.onnx --pitch nmp.onnx

`--silero` is the file of that name in the package silero-vad 6.2.3, `--pitch` that in basic-pitch 0.4.0;
all other models are made here, the two networks for pictures trained on CIFAR-10 as in
compress_image.py. Each becomes a bundle, which is exported for every engine that is installed and runs
here: converted, compared with ONNX Runtime's answers and measured on one thread, in turn. Then the bundle
is measured anew, and the engine that `auto` took from the first measurement is looked up in the second.

Bundles and rows are kept in build/benchmarks/engines. Exits with 1 where fewer than 90 % of the cells are
within tolerance, or where `auto` took an engine that is more than 10 % slower than the fastest.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from pydantic import BaseModel

import cifar
import tables
from nets import Decoder, Enhancer, KeywordNet, MobileNetV2, ResNet20
from openglm import AutoModel, GraphOptimizer, Model, export, optimize
from openglm.bundle.manifest import Target
from openglm.bundle.store import read_manifest
from openglm.dynamic.session import fastest
from openglm.model.sources import onnx_file
from openglm.passes.recipe import parse
from openglm.runtimes.engine import engines
from openglm.runtimes.onnxruntime import NAME
from openglm.search.result import Solution
from openglm.targets.export import compare

BUILD = Path(__file__).parent.parent / "build" / "benchmarks"
FOLDER = BUILD / "engines"
DEVICE = "mid-range-a76"
WANTED, SLACK = 0.9, 1.1
LENGTHS = {"sequence": [32, 128]}
"""Tokens that engines of fixed sizes get graphs for."""
SIDE = 64
"""Of the pictures for MobileNetV2 and the enhancement net, in pixels."""
HZ = 16000
"""The sampling rate that is put into silero-vad's graph: its branches for others go."""
Recipe = list[dict[str, Any]]
INT8: Recipe = [{"pass": "fuse"}, {"pass": "dynamic_wi8_ai8"}]
STATIC: Recipe = [{"pass": "fuse"}, {"pass": "static_wi8_ai8"}]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with cifar10-jpeg")
    parser.add_argument("--silero", type=Path, required=True, help="silero_vad_op18_ifless.onnx")
    parser.add_argument("--pitch", type=Path, required=True, help="nmp.onnx of basic-pitch")
    parser.add_argument("--only", default="", help="models whose names begin so")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, make in models(given).items():
        if name.startswith(given.only):
            rows.append(Row.of(name, made(name, make), given.rounds))
            print(f"{name}: {rows[-1].told}", flush=True)
    return published(rows, given)


def models(given: argparse.Namespace) -> dict[str, Callable[[], Solution]]:
    """What is measured, by name: how each is made."""
    encoder, base = "all-minilm-l6-v2", "open-autoglm-base"
    mobile, residual = (
        lambda: trained(given.data, "mobilenetv2-64.pt", MobileNetV2, SIDE),
        lambda: trained(given.data, "resnet20.pt", ResNet20, 32),
    )
    pruned: Recipe = [{"pass": "neuron_pruning", "keep": 0.5}, {"pass": "fuse"}]
    factored: Recipe = [{"pass": "low_rank", "keep": 0.5}, {"pass": "fuse"}]
    return {
        "encoder": lambda: by_recipe(encoder, [{"pass": "fuse"}]),
        "encoder, half its neurons": lambda: by_recipe(encoder, pruned),
        "encoder, low rank": lambda: by_recipe(encoder, factored),
        "encoder, int8": lambda: by_recipe(encoder, INT8),
        "MobileNetV2": lambda: by_recipe(mobile(), [{"pass": "fuse"}]),
        "MobileNetV2, int8": lambda: by_recipe(mobile(), STATIC),
        "ResNet-20": lambda: by_recipe(residual(), [{"pass": "fuse"}]),
        "ResNet-20, int8": lambda: by_recipe(residual(), STATIC),
        "enhancement, depthwise": lambda: by_recipe(
            wrapped(Enhancer(), (1, 3, SIDE, SIDE)), [{"pass": "fuse"}]
        ),
        "keyword spotting": lambda: by_recipe(wrapped(KeywordNet(), (1, 1, 49, 10)), [{"pass": "fuse"}]),
        "decoder": lambda: by_recipe(decoder(), [{"pass": "fuse"}]),
        "decoder, int8": lambda: by_recipe(decoder(), INT8),
        "silero-vad": lambda: by_recipe(str(silero(given.silero)), [{"pass": "fuse"}]),
        "basic-pitch": lambda: by_recipe(str(given.pitch), [{"pass": "fuse"}]),
        "encoder, exits and tokens, int8": lambda: by_strategy(base),
    }


def trained(data: Path, weights: str, kind: type[MobileNetV2 | ResNet20], side: int) -> Model:
    """A network that knows CIFAR-10."""
    stages = cifar.SMALL if kind is MobileNetV2 else cifar.RESNET
    net = cifar.trained(data, BUILD / weights, kind, stages)
    example = (torch.zeros(1, 3, side, side),)
    return AutoModel.wrap(net, example, name=kind.__name__, task="image-classification")


def wrapped(net: torch.nn.Module, shape: tuple[int, ...]) -> Model:
    """A network with random weights, whose normalisations have seen inputs of this shape."""
    torch.manual_seed(cifar.SEED)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, *shape[1:]))
    return AutoModel.wrap(net.eval(), (torch.zeros(shape),), name=type(net).__name__)


def decoder() -> Model:
    """A small decoder with random weights, for 64 tokens."""
    torch.manual_seed(cifar.SEED)
    return AutoModel.wrap(Decoder().eval(), (torch.zeros(1, 64, dtype=torch.long),), name="Decoder")


def silero(source: Path) -> Path:
    """silero-vad's graph for one sampling rate and 512 samples at a time, as its makers feed it."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    model = onnx_file.read(source)
    graph = model.graph
    rate = next(value for value in graph.inputs if value.name == "sr")
    graph.inputs.remove(rate)
    rate.const_value = ir.tensor(np.array(HZ, np.int64), name="sr")
    graph.register_initializer(rate)
    for value in graph.inputs:
        value.shape = ir.Shape([1, 512] if value.name == "input" else [2, 1, 128])
    optimizer.optimize_ir(
        model, num_iterations=4, input_size_limit=10**7, output_size_limit=10**7
    )  # fmt: skip
    common.RemoveUnusedNodesPass()(model)
    target = FOLDER / "silero-vad.onnx"
    onnx_file.write(model, target)
    return target


def by_recipe(source: Model | str, recipe: Recipe) -> Solution:
    """A model after passes, whatever they cost: engines are compared with what came out."""
    found = optimize(
        source, DEVICE, recipe=parse(recipe), max_drop=1.0, threads=1, calibration_samples=32,
        evaluation_samples=16,
    )  # fmt: skip
    after = [trial for trial in found.trials if trial.recipe and trial.path is not None]
    return Solution(found, after[-1]) if after else found.best


def by_strategy(source: str) -> Solution:
    """A program with gates."""
    return GraphOptimizer(source, DEVICE, threads=1).optimize(strategy="dynamic_pruning").best


def made(name: str, make: Callable[[], Solution]) -> Path:
    """The bundle of a model."""
    bundle = FOLDER / "".join(letter if letter.isalnum() else "-" for letter in name)
    if not bundle.is_dir():
        print(f"{name}: making it", flush=True)
        make().save(bundle)
    return bundle


def runners() -> list[str]:
    """The engines that are installed, and run on this machine."""
    return [name for name, each in engines().items() if name != NAME and each.runs and not each.lacking]


class Row(BaseModel):
    """A model on all engines."""

    name: str
    targets: dict[str, Target | None]
    """What was measured, by engine, ONNX Runtime's first; none where it is not within tolerance."""
    reasons: dict[str, str]
    """Why it is not."""
    auto: str
    """The engine that is fastest by this."""
    second: dict[str, float]
    """Milliseconds by engine, measured anew."""

    @classmethod
    def of(cls, name: str, bundle: Path, rounds: int) -> Row:
        """A model's bundle, measured; a row that is there already is taken."""
        kept = FOLDER / f"{bundle.name}.json"
        if kept.is_file():
            return cls.model_validate_json(kept.read_text(encoding="utf-8"))
        target = FOLDER / f"{bundle.name}-exported"
        shutil.rmtree(target, ignore_errors=True)
        found = export(bundle, runners(), output=target, sizes=LENGTHS, samples=8, rounds=rounds)
        again = compare(target, ["all"], samples=8, rounds=rounds) if target.is_dir() else found
        row = cls(
            name=name,
            targets={outcome.engine: outcome.target for outcome in found},
            reasons={outcome.engine: outcome.reason for outcome in found if outcome.target is None},
            auto=fastest(read_manifest(target)) if target.is_dir() else NAME,
            second={
                outcome.engine: outcome.target.timing.median_ms
                for outcome in again
                if outcome.target is not None and outcome.target.timing is not None
            },
        )
        kept.write_text(row.model_dump_json(), encoding="utf-8")
        return row

    @property
    def slower(self) -> float:
        """How much longer the engine that `auto` took takes than the fastest, measured anew."""
        return self.second[self.auto] / min(self.second.values())

    @property
    def told(self) -> str:
        good = [engine for engine, target in self.targets.items() if target is not None]
        return f"{', '.join(good)}; auto {self.auto}, {self.slower:.2f} of the fastest's time"


def published(rows: list[Row], given: argparse.Namespace) -> int:
    names = [name for name in rows[0].targets if name != NAME]
    titles = [engines()[name].title for name in names]
    kinds = {row.name: own.precision for row in rows if (own := row.targets[NAME]) is not None}
    cells = [row.targets[name] for row in rows for name in names]
    good = sum(target is not None for target in cells)
    parity = tables.markdown(
        ["model", "weights", *titles],
        [[row.name, kinds[row.name], *(_parity(row.targets[name]) for name in names)] for row in rows],
        left=2,
    )
    speeds = tables.markdown(
        ["model", engines()[NAME].title, *titles, "`auto` takes", "of the fastest's time"],
        [
            [row.name, *(_speed(row, name) for name in (NAME, *names)), row.auto, f"{row.slower:.2f}"]
            for row in rows
        ],
        left=1,
    )
    failures = [
        f"- {row.name}, {engines()[name].title}: {row.reasons[name]}"
        for row in rows
        for name in names
        if name in row.reasons
    ]
    share = good / len(cells)
    text = (
        f"{good} of {len(cells)} cells ({share:.0%}) are converted and within tolerance; {WANTED:.0%} are "
        "wanted. Each has the cosine of its answers to ONNX Runtime's and the largest difference, of the "
        f"largest output; of programs with gates, the share of inputs that take the same way.\n\n{parity}\n\n"
        + ("\n".join(failures) + "\n\n" if failures else "")
        + "Milliseconds of an input, with the speed against ONNX Runtime's in the same rounds. The last two "
        f"columns: what `--runtime auto` takes by this, and how it did in a second run of all.\n\n{speeds}"
    )
    packages = {engines()[name].package: engines()[name].version or "" for name in (NAME, *names)}
    versions = {**packages, "torch": version("torch")}
    tables.publish("engines", text, given, versions, f"Medians of {given.rounds} interleaved rounds.")
    return 0 if share >= WANTED and all(row.slower <= SLACK for row in rows) else 1


def _parity(target: Target | None) -> str:
    if target is None:
        return "–"
    way = "" if target.same_way is None else f", {target.same_way:.0%}"
    return f"{target.cosine:.4f}, {target.difference:.1g}{way}"


def _speed(row: Row, name: str) -> str:
    target = row.targets[name]
    if target is None or target.timing is None:
        return "–"
    times = "" if name == NAME else f" ({target.speedup:.2f}x)"
    return f"{target.timing.median_ms:.3g}{times}"


if __name__ == "__main__":
    sys.exit(main())
