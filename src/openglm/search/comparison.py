"""Two models or bundles side by side, measured in turn on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from openglm.bundle.manifest import Host, Timing
from openglm.bundle.store import is_bundle, opened
from openglm.dynamic import footprint
from openglm.errors import InputError
from openglm.metrics.fidelity import metric as fidelity
from openglm.model.auto import AutoModel, printable
from openglm.model.model import Model
from openglm.model.processors.processor import from_settings
from openglm.model.sources import onnx_file
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME, Runner, version
from openglm.search.feed import Feed, sizes

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
    models = [_load(source) for source in (one, other)]
    a, b = models
    if {spec.name for spec in a.inputs} != {spec.name for spec in b.inputs}:
        raise InputError(
            f"{one} takes {', '.join(map(str, a.inputs))} and {other} {', '.join(map(str, b.inputs))}.",
            "Compare models with the same inputs.",
        )
    shape = sizes(a, dims)
    feed = Feed(a, None, shape, calibration_samples=1, evaluation_samples=SAMPLES)
    paths = [folder / f"{index}.onnx" for index in range(2)]
    for model, path in zip(models, paths, strict=True):
        onnx_file.write(model.graph, path)
    runners = [Runner(path, threads=threads) for path in paths]
    outputs = [feed.outputs(runner)[0] for runner in runners]
    labels = list(next(iter(outputs[0].values())))
    score = fidelity.score(feed.evaluation(outputs[1], outputs[0], labels))
    inputs = feed.shaped()
    times = measure.interleaved(
        {"a": lambda: runners[0].run(inputs), "b": lambda: runners[1].run(inputs)}, rounds=rounds
    )
    sides = []
    for name, path, taken in zip((one, other), paths, times.values(), strict=True):
        found = footprint.measure(path, inputs, threads)
        sides.append(
            Side(
                name=printable(name),
                size_bytes=path.stat().st_size,
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
        shape=shape,
        host=measure.host(f"{NAME} {version()}", threads),
    )


def _load(source: str) -> Model:
    """A model, or the one in a bundle with its processor."""
    if not is_bundle(Path(source)):
        return AutoModel.from_pretrained(source)
    with opened(Path(source)) as (home, manifest):
        if len(manifest.program.segments) > 1:
            raise InputError(
                f"{source} is a program of several graphs, which compare does not measure.",
                "Give a bundle of one graph.",
            )
        graph = onnx_file.read(home / manifest.program.segments[0].models[NAME])
        ir.external_data.load_to_model(graph)  # nothing may point into a folder that goes
        processor = None
        if manifest.processor is not None:
            processor = from_settings(manifest.processor, home)
    return Model(manifest.name, source, manifest.task, lambda: graph, processor=processor)
