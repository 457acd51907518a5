"""From a search's result to a bundle's files."""

from __future__ import annotations

import datetime
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from openglm.bundle.manifest import FILE, Candidate, Figures, Manifest, Program, Segment, Source
from openglm.bundle.store import list_files
from openglm.device.fit import Verdict
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import printable
from openglm.report.page import render
from openglm.runtimes import footprint, measure
from openglm.runtimes.onnxruntime import NAME, Runner
from openglm.runtimes.session import probes
from openglm.search.feed import Batch
from openglm.search.trial import Bench, Trial

MODEL_FILE = "model.onnx"
PROBES_FILE = "probes.npz"
PROBES = 4
PROBE_BYTES = 250_000
"""Inputs of probes at most, beyond the first: pictures would outweigh the model."""
LAYERS = 200
"""Layers in the manifest at most, the costliest; a graph of thousands would drown the rest."""


def package(
    bench: Bench,
    trial: Trial,
    verdict_before: Verdict,
    candidates: tuple[Candidate, ...],
    folder: Path,
    command: str,
) -> None:
    """Write a trial's model, its processor, probes, manifest and report into an empty folder."""
    assert trial.path is not None
    model_file = folder / MODEL_FILE
    shutil.copyfile(trial.path, model_file)
    for data in trial.path.parent.glob(f"{trial.path.name}.data"):  # weights beyond protobuf's 2 GB
        shutil.copyfile(data, folder / data.name)
    processor = None
    if bench.model.processor is not None:
        saved = bench.model.processor.save(folder)
        processor = {**bench.model.processor.settings(), "files": saved}
    runner = Runner(model_file, threads=bench.threads)
    np.savez_compressed(folder / PROBES_FILE, **probes(runner, _probe_inputs(bench)))  # type: ignore[arg-type]
    before, after, speedup = _figures(bench, trial, runner, model_file)
    verdict_after = trial.verdict or verdict_before
    manifest = Manifest(
        openglm=version("openglm"),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=printable(command),
        name=bench.model.name,
        task=bench.model.task,
        source=Source(
            name=bench.model.name,
            source=bench.model.source,
            bytes=before.size_bytes,
            parameters=analyse(bench.model.graph, bench.dims).parameters,
        ),
        inputs=bench.model.inputs,
        outputs=bench.model.outputs,
        processor=processor,
        program=Program(segments=(Segment(name="model", models={NAME: MODEL_FILE}),)),
        recipe=trial.candidate.recipe,
        device=bench.device.model_dump(mode="json"),
        budget=bench.budget.model_dump(mode="json"),
        max_drop=bench.max_drop,
        verdict_before=verdict_before.to_json(),
        verdict_after=verdict_after.to_json(),
        layers=(*_layers("before", verdict_before), *_layers("after", verdict_after)),
        before=before,
        after=after,
        speedup=speedup,
        candidates=candidates,
        calibration=printable(bench.feed.description),
        shape=dict(bench.dims),
        host=measure.host(f"{NAME} {version('onnxruntime')}", bench.threads),
        versions={name: version(name) for name in ("openglm", "onnxruntime", "onnx", "onnx_ir", "numpy")}
        | {"python": platform.python_version()},
        probes=PROBES_FILE,
        files=list_files(folder),
    )
    (folder / "report.html").write_text(render(manifest), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": list_files(folder)})
    (folder / FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def _probe_inputs(bench: Bench) -> list[Batch]:
    first, *others = bench.feed.first(PROBES)
    size = sum(array.nbytes for array in first.values())
    return [first, *others[: PROBE_BYTES // max(size, 1)]]


def _figures(bench: Bench, trial: Trial, runner: Runner, model_file: Path) -> tuple[Figures, Figures, float]:
    """The original and the chosen, measured once more in turn, for longer than a trial does."""
    times = measure.interleaved(
        {"before": lambda: bench.runner.run(bench.inputs), "after": lambda: runner.run(bench.inputs)},
        rounds=40,
        seconds=10,
    )
    original = bench.folder / "original.onnx"
    return (
        _measured(bench, original, times["before"], bench.baseline),
        _measured(bench, model_file, times["after"], trial.candidate.quality),
        round(measure.speedup(times["before"], times["after"]), 4),
    )


def _measured(bench: Bench, path: Path, times: Any, quality: Any) -> Figures:
    found = footprint.measure(path, bench.inputs, bench.threads)
    return Figures(
        size_bytes=path.stat().st_size,
        timing=measure.summary(times),
        load_ms=found.load_ms if found else None,
        peak_memory_mb=found.peak_mb if found else None,
        quality=quality,
    )


def _layers(phase: str, verdict: Verdict) -> list[dict[str, Any]]:
    costly = sorted(verdict.layers, key=lambda layer: -layer.ms)[:LAYERS]
    return [{"phase": phase, **layer.model_dump(mode="json")} for layer in costly]
