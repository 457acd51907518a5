"""Two models or bundles side by side, measured in turn on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.bundle.manifest import FILE, Host, Timing
from openglm.bundle.store import is_bundle, opened
from openglm.dynamic import footprint
from openglm.dynamic.program import model_files, open_file
from openglm.errors import InputError, nearest
from openglm.metrics.fidelity import metric as fidelity
from openglm.model.auto import AutoModel, printable
from openglm.model.extra_outputs import plain
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME, version
from openglm.search.bundled import Bundled
from openglm.search.feed import Feed, sizes
from openglm.search.trial import TIMED

SAMPLES = 64


class Side(BaseModel):
    """What was measured of one of the two."""

    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int
    timing: Timing
    load_ms: float | None
    peak_memory_mb: float | None


class Comparison(BaseModel):
    """Two models measured against each other."""

    model_config = ConfigDict(frozen=True)

    a: Side
    b: Side
    speedup: float
    """How many times faster B is: the median over the rounds."""
    fidelity: float
    """Of B's outputs to A's."""
    samples: int
    data: str
    shape: dict[str, int]
    host: Host


def compare(
    one: str, other: str, folder: Path, *, dims: Mapping[str, int], threads: int, rounds: int
) -> Comparison:
    """Measure two models, each a bundle or a source that `AutoModel` reads; work files go into `folder`.

    Raises `InputError` where they do not take the same inputs or give the same outputs.
    """
    with ExitStack() as resources:
        a = open_source(one, folder / "a.onnx", dims, resources)
        b = open_source(other, folder / "b.onnx", dims, resources)
        return _compared(one, other, a, b, threads=threads, rounds=rounds)


def _compared(one: str, other: str, a: Opened, b: Opened, *, threads: int, rounds: int) -> Comparison:
    check_alike({one: a, other: b})
    feed = Feed(a.reads, None, a.shape, calibration_samples=1, evaluation_samples=SAMPLES)
    runners = [open_file(each.path, threads=threads) for each in (a, b)]
    outputs = [feed.outputs(runner)[0] for runner in runners]
    labels = list(next(iter(outputs[0].values())))
    score = fidelity.score(feed.evaluation(outputs[1], outputs[0], labels))
    inputs = timed(feed, (a, b))
    times = {
        name: taken / len(inputs)
        for name, taken in measure.interleaved(
            {name: measure.running(runner, inputs) for name, runner in zip("ab", runners, strict=True)},
            rounds=rounds,
        ).items()
    }
    sides = []
    for name, each, taken in zip((one, other), (a, b), times.values(), strict=True):
        found = footprint.measure(each.path, inputs[0], threads)
        sides.append(
            Side(
                name=printable(name),
                size_bytes=sum(file.stat().st_size for file in model_files(each.path)),
                timing=measure.summary(taken),
                load_ms=found.load_ms if found else None,
                peak_memory_mb=found.peak_mb if found else None,
            )
        )
    return Comparison(
        a=sides[0],
        b=sides[1],
        speedup=measure.speedup(times["a"], times["b"]),
        fidelity=score.value,
        samples=len(labels),
        data=feed.description,
        shape=a.shape,
        host=measure.host(f"{NAME} {version()}", threads),
    )


def check_alike(opened: Mapping[str, Opened]) -> None:
    """Raise `InputError` where models, by what the user called them, do not take the same inputs."""
    (one, first), *others = opened.items()
    takes = first.reads.inputs
    for other, each in others:
        if {spec.name for spec in takes} != {spec.name for spec in each.reads.inputs}:
            raise InputError(
                f"{one} takes {', '.join(map(str, takes))} and {other} "
                f"{', '.join(map(str, each.reads.inputs))}.",
                "Compare models with the same inputs.",
            )


def timed(feed: Feed, opened: Sequence[Opened]) -> list[dict[str, np.ndarray]]:
    """The inputs that speed is measured on: several where one is a program, which costs what it reads."""
    programs = any(isinstance(each.reads, Bundled) and each.reads.gated for each in opened)
    return feed.first(TIMED) if programs else [feed.shaped()]


@dataclass(frozen=True)
class Opened:
    """A model or a bundle, ready to be loaded by an engine."""

    reads: Model | Bundled
    path: Path
    """Of the model's file, or the bundle's manifest."""
    shape: dict[str, int]
    """The sizes of its named dimensions."""


def open_source(source: str, file: Path, dims: Mapping[str, int], resources: ExitStack) -> Opened:
    """What is in a bundle, or a model, which is written to `file`."""
    if not is_bundle(Path(source)):
        model = AutoModel.from_pretrained(source)
        onnx_file.write(plain(model.graph), file)
        return Opened(model, file, sizes(model, dims))
    folder, manifest = resources.enter_context(opened(Path(source)))
    if unknown := sorted(set(dims) - set(manifest.shape)):
        raise InputError(f"{source} has no dimension '{unknown[0]}'.", nearest(unknown[0], manifest.shape))
    return Opened(Bundled.of(folder, manifest), folder / FILE, {**manifest.shape, **dims})
