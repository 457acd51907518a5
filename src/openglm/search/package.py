"""From a search's result to a bundle's files."""

from __future__ import annotations

import datetime
import platform
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openglm.bundle.manifest import FILE, Figures, Manifest, Program, Segment, Source
from openglm.bundle.store import list_files
from openglm.device.fit import Verdict
from openglm.dynamic import footprint
from openglm.dynamic.program import PROGRAM_FILE, ProgramFile, ProgramRunner, model_files, open_program
from openglm.dynamic.session import probes
from openglm.memory import bundled
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import printable
from openglm.passes.recipe import toml
from openglm.report.page import REPORT, render
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME
from openglm.search import threads
from openglm.search.bench import Bench
from openglm.search.feed import Batch, Feed
from openglm.search.rounding import rounding
from openglm.search.trial import Trial, inputs_of

if TYPE_CHECKING:
    from openglm.search.result import Result, Solution

MODEL_FILE = "model.onnx"
RECIPE_FILE = "recipe.toml"
PROBES_FILE = "probes.npz"
PROBES = 4
PROBE_BYTES = 250_000
"""Inputs of probes at most, beyond the first: pictures would outweigh the model."""
SAMPLES = 256
"""On which the work of a program is found, at most."""
LAYERS = 200
"""Layers in the manifest at most, the costliest; a graph of thousands would drown the rest."""


def package(result: Result, solution: Solution, folder: Path, command: str) -> None:
    """Write a solution's model, its processor, recipe, probes, manifest and report into an empty folder."""
    bench, trial = result.bench, solution.trial
    assert trial.path is not None
    program = _program(trial.path, folder)
    processor = None
    if (maker := trial.processor or bench.model.processor) is not None:
        processor = {**maker.settings(), "files": maker.save(folder)}
    if trial.candidate.recipe:
        (folder / RECIPE_FILE).write_text(toml(trial.candidate.recipe) + "\n", encoding="utf-8")
    runner = open_program(program, bench.outputs, folder, threads=bench.setup.threads)
    feed = bench.feed if trial.processor is None else bench.feed.of(replace(bench.model, processor=maker))
    found = probes(runner, _probe_inputs(feed))
    np.savez_compressed(folder / PROBES_FILE, **found)  # type: ignore[arg-type]
    before, after, speedup = _figures(bench, trial, runner, feed)
    cores = bench.setup.device.cpu.cores
    thread_counts = threads.measured(
        program, bench.outputs, folder, inputs_of(trial.recipe, bench, feed)[1], cores
    )
    plans = bundled.plans(folder, program, bench.dims, seconds=bundled.SECONDS)
    arenas = bundled.write(folder, plans) if plans else ()
    verdict_after = trial.verdict or bench.verdict
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
        outputs=bench.outputs,
        processor=processor,
        classes=bench.feed.class_names,
        program=program,
        recipe=trial.candidate.recipe,
        device=bench.setup.device.model_dump(mode="json"),
        budget=bench.setup.budget.model_dump(mode="json"),
        max_drop=bench.setup.max_drop,
        verdict_before=bench.verdict.to_json(),
        verdict_after=verdict_after.to_json(),
        layers=(*_layers("before", bench.verdict), *_layers("after", verdict_after)),
        before=before,
        after=after,
        speedup=speedup,
        mean_work=_mean_work(runner, feed) if program.gates else None,
        candidates=solution.candidates,
        sensitivities=result.sensitivities,
        elapsed_s=result.elapsed_s,
        calibration=printable(bench.feed.description),
        training=printable(bench.training.name) if bench.training is not None else None,
        shape=dict(bench.dims),
        host=measure.host(f"{NAME} {version('onnxruntime')}", bench.setup.threads),
        versions={name: version(name) for name in ("openglm", "onnxruntime", "onnx", "onnx_ir", "numpy")}
        | {"python": platform.python_version()},
        threads=thread_counts,
        probes=PROBES_FILE,
        rounding=rounding(program, bench.outputs, folder, folder / PROBES_FILE),
        arenas=arenas,
        plans=bundled.FILE if arenas else None,
        files={},
    )
    seal(folder, manifest)


def seal(folder: Path, manifest: Manifest, *, report: bool = True) -> None:
    """Write the report and the manifest of a bundle whose other files are in its folder."""
    if report:
        (folder / REPORT).unlink(missing_ok=True)
        beside = manifest.model_copy(update={"files": list_files(folder)})
        (folder / REPORT).write_text(render(beside), encoding="utf-8")
    manifest = manifest.model_copy(update={"files": list_files(folder)})
    (folder / FILE).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")


def _program(path: Path, folder: Path) -> Program:
    """Copy a trial's model, or all segments of its program, into a bundle; the program that it runs."""
    for file in model_files(path):
        shutil.copyfile(file, folder / (MODEL_FILE if file == path else file.name))
    if path.name == PROGRAM_FILE:
        return ProgramFile.read(path).program
    return Program(segments=(Segment(name="model", models={NAME: MODEL_FILE}),))


def _probe_inputs(feed: Feed) -> list[Batch]:
    first, *others = feed.first(PROBES)
    size = sum(array.nbytes for array in first.values())
    return [first, *others[: PROBE_BYTES // max(size, 1)]]


def _figures(bench: Bench, trial: Trial, runner: ProgramRunner, feed: Feed) -> tuple[Figures, Figures, float]:
    """The original and the chosen, measured once more in turn, for longer than a trial does."""
    assert trial.path is not None
    before, after, count = inputs_of(trial.recipe, bench, feed)
    times = measure.interleaved(
        {"before": measure.running(bench.runner, before), "after": measure.running(runner, after)},
        rounds=40,
        seconds=10,
    )
    times = {name: found / count for name, found in times.items()}
    return (
        _measured(bench, bench.original, times["before"], bench.baseline, before[0]),
        _measured(bench, trial.path, times["after"], trial.candidate.quality, after[0]),
        round(measure.speedup(times["before"], times["after"]), 4),
    )


def _mean_work(runner: ProgramRunner, feed: Feed) -> float:
    return round(float(np.mean([runner.traced(batch)[1].work for batch in feed.first(SAMPLES)])), 4)


def _measured(bench: Bench, path: Path, times: Any, quality: Any, inputs: Batch) -> Figures:
    found = footprint.measure(path, inputs, bench.setup.threads)
    return Figures(
        size_bytes=sum(file.stat().st_size for file in model_files(path)),
        timing=measure.summary(times),
        load_ms=found.load_ms if found else None,
        peak_memory_mb=found.peak_mb if found else None,
        quality=quality,
    )


def _layers(phase: str, verdict: Verdict) -> list[dict[str, Any]]:
    costly = sorted(verdict.layers, key=lambda layer: -layer.ms)[:LAYERS]
    return [{"phase": phase, **layer.model_dump(mode="json")} for layer in costly]
