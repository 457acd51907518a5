"""One recipe, tried: applied, judged on data, and measured against the original."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Candidate
from openglm.device import fit as verdicts
from openglm.dynamic.program import PROGRAM_FILE, ProgramFile, model_files, open_file
from openglm.errors import OpenGLMError
from openglm.model.extra_outputs import plain
from openglm.model.model import Model
from openglm.model.processors.image_processor import ImageProcessor
from openglm.model.processors.processor import Processor, from_settings
from openglm.model.sources import onnx_file
from openglm.model.tensor import TensorSpec
from openglm.passes.contract import Context, Draft
from openglm.passes.recipe import Recipe, code, parse, split
from openglm.passes.structure.nesting import nested
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME
from openglm.search.bench import Bench, no_room
from openglm.search.clock import Clock, total
from openglm.search.feed import Batch, Feed

NOISE = 0.97
"""A candidate at less than this share of the original's speed is slower; above it, noise may be."""
SLICE = 64
"""Samples that judge first: a recipe that is far off on these is not judged on all."""
FAR = 0.05
"""What a slice must lose beyond the limit to say enough: it is as wrong as a few samples in it."""
ROUNDING = 1e-9
"""0.882 - 0.872 is above 0.01 in binary."""
UNLIKE, AGAIN = 1.1, 2
"""How many times faster or slower than expected is looked at again, and how often."""
TIMED = 32
"""Inputs that a program is measured on."""
MODEL_FILE, PROCESSOR_FILE = "model.onnx", "processor.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Trial:
    """A candidate, and its model's file where there is one."""

    candidate: Candidate
    recipe: Recipe
    path: Path | None = None
    verdict: verdicts.Verdict | None = None
    processor: Processor | None = None
    """Its own, where it is not the original's."""
    pace: float | None = None
    """Seconds that a step of training takes, where that was found out."""
    gone: bool = False
    """Whether its model was accepted and has been dropped since."""

    @property
    def accepted(self) -> bool:
        """Whether it pays."""
        return self.candidate.outcome in ("accepted", "chosen")

    @property
    def available(self) -> bool:
        """Whether it may be chosen: it pays, and its model is there."""
        return self.accepted and not self.gone

    def chosen(self) -> Trial:
        """The same, as the one that was chosen."""
        return replace(self, candidate=self.candidate.model_copy(update={"outcome": "chosen"}))


def attempt(
    recipe: Recipe,
    bench: Bench,
    folder: Path,
    tick: Callable[[str, float], None],
    *,
    effort: int = 0,
    expected: float | None = None,
) -> Trial:
    """Apply a recipe and find out whether it pays. Never raises for a recipe that cannot be applied.

    The model goes into `folder`, which is emptied first, and stays only where the trial is accepted.
    `expected` is how many times faster a model of the same shapes was, where one was measured. `tick`
    is told what is done and how much of it is over, 0 to 1. Raises `OutputError` where the disk is full.
    """
    clock = Clock()
    notes: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        found = _judge(recipe, bench, folder, tick, notes, clock, expected)
    except OpenGLMError as error:
        found = {"outcome": "failed", "reason": error.problem}
    except OSError as error:
        if error.errno in _FULL:
            shutil.rmtree(folder, ignore_errors=True)
            raise no_room(folder.parent, error) from error
        found = {"outcome": "failed", "reason": f"{type(error).__name__}: {error}."}
    except Exception as error:  # a pass or an engine that breaks on this model must not cost the others
        text = (str(error).strip() or "no reason given").splitlines()[0]
        found = {"outcome": "failed", "reason": f"{type(error).__name__}: {text[:200]}."}
    apart = {name: found.pop(name, None) for name in ("path", "verdict", "processor", "pace")}
    candidate = Candidate(
        code=code(recipe),
        recipe=tuple(step.to_recipe() for step in recipe),
        notes=tuple(notes),
        fits=None if apart["verdict"] is None else apart["verdict"].fits,
        seconds=total(clock.seconds),
        spent=clock.rounded(),
        effort=effort,
        **found,
    )
    trial = Trial(candidate, recipe, **apart)
    if not trial.accepted:
        shutil.rmtree(folder, ignore_errors=True)
        trial = replace(trial, path=None)
    return trial


def _judge(
    recipe: Recipe,
    bench: Bench,
    folder: Path,
    tick: Callable[[str, float], None],
    notes: list[str],
    clock: Clock,
    expected: float | None,
) -> dict[str, Any]:
    """The fields of a trial and its candidate; what the passes remark goes into `notes`."""
    modules, graphs, dynamic = split(recipe)
    trained = any(step.needs_training for step in modules)
    model, remarks = bench.adapted(
        modules, clock, lambda text, share: tick(text, 0.7 * share), gated=bool(dynamic)
    )
    notes += remarks
    own = model.processor if model.processor is not bench.model.processor else None
    feed = bench.feed.of(model) if own is not None else bench.feed
    pace = None
    if modules and not trained and bench.training is not None:
        with clock("training"):
            pace = _pace(bench, model)
    tick("exporting", 0.7)
    with clock("exporting"):
        graph, changed = model.graph, model is not bench.model
    context = Context(calibration=feed.calibration, progress=lambda _: tick("calibrating", 0.75))
    with clock("quantizing"):
        for step in graphs:
            applied = step.apply(graph, context)
            graph, changed = applied.graph, changed or applied.changed
            notes += applied.notes
    if not changed and not dynamic:
        return {"outcome": "refused", "reason": f"{recipe[-1].scheme} finds nothing to change in this model."}
    if not dynamic:
        graph = plain(graph)
        path = folder / MODEL_FILE
        onnx_file.write(graph, path, mapped=True)
    else:
        with clock("calibrating"):
            rows = bench.thresholds(trained=trained)
            # What stands in for data says nothing of an answer, unless the model brought it itself.
            asked = bench.setup.data is not None or model.stand_ins is not None
            labelled = (lambda: feed.numbered(rows)) if asked else None
            draft = nested(dynamic, graph, Context(calibration=feed.calibration, labelled=labelled))
        notes += draft.notes
        if draft.small is not None and isinstance(model.processor, ImageProcessor):
            own = model.processor.model_copy(update={"small": draft.small})
            feed = bench.feed.of(replace(model, processor=own))
        path = write_draft(draft, bench.outputs, folder)
    runner = open_file(path, threads=bench.setup.threads)
    size = sum(file.stat().st_size for file in model_files(path))
    samples = len(bench.labels)
    # After a training a slice would spare seconds, and a few unlucky samples throw away minutes.
    every = 1 if trained else max(1, samples // SLICE)
    with clock("judging"):
        outputs, _ = feed.outputs(runner, _counter(tick, "judging", 0.8, 0.85, samples // every), every)
        if not _finite(outputs):
            return {"outcome": "refused", "reason": "Its outputs are not finite numbers.", "size_bytes": size}
        quality = bench.quality(outputs, every)
        reference = {name: rows[::every] for name, rows in bench.reference.items()}
        drop = bench.drop(quality, bench.quality(reference, every))
        far = every > 1 and drop > bench.setup.max_drop + FAR
        if not far and every > 1:
            outputs, _ = feed.outputs(runner, _counter(tick, "judging", 0.85, 0.9, samples))
            quality = bench.quality(outputs)
            drop = bench.drop(quality)
    tick("measuring", 0.9)
    before, inputs, count = inputs_of(recipe, bench, feed)
    with clock("waiting"), bench.alone(), clock("measuring"):
        calls = {
            "original": measure.running(bench.runner, before),
            "candidate": measure.running(runner, inputs),
        }
        times = _times(calls, 9 if far else 25, 2 if far else 6, expected)
    times = {name: found / count for name, found in times.items()}
    faster = round(measure.speedup(times["original"], times["candidate"]), 4)
    if not drop <= bench.setup.max_drop + ROUNDING:
        among = f" on {quality.samples} samples" if far else ""
        outcome = "refused"
        reason = (
            f"Loses {drop:.4g} of {quality.metric}{among} at {faster:.2f}x the speed; "
            f"{bench.setup.max_drop:g} is allowed."
        )
    elif faster < NOISE:
        outcome, reason = "refused", f"Slower: {1 / faster:.2f}x the original's time on this engine."
    else:
        outcome = "accepted"
        reason = f"{faster:.2f}x the original's speed at a loss of {max(drop, 0):.4g} {quality.metric}."
    return {
        "outcome": outcome,
        "reason": reason,
        "path": path,
        "size_bytes": size,
        "quality": quality,
        "loss": round(drop, 6),
        "timing": measure.summary(times["candidate"]),
        "original": measure.summary(times["original"]),
        "speedup": faster,
        "verdict": _verdict(graph, bench),
        "processor": own,
        "pace": pace,
    }


def _times(
    calls: Mapping[str, Callable[[], None]], rounds: int, seconds: float, expected: float | None
) -> dict[str, np.ndarray]:
    """Milliseconds of each round; where the speed is far from what it was for the same shapes, something
    else had the machine then or now, and rounds are added."""
    times = measure.interleaved(calls, rounds=rounds, seconds=seconds)
    for _ in range(AGAIN):
        faster = measure.speedup(times["original"], times["candidate"])
        if expected is None or 1 / UNLIKE <= faster / expected <= UNLIKE:
            break
        more = measure.interleaved(calls, rounds=rounds, seconds=seconds)
        times = {name: np.concatenate([found, more[name]]) for name, found in times.items()}
    return times


def write_draft(draft: Draft, outputs: tuple[TensorSpec, ...], folder: Path) -> Path:
    """Write a program's segments, and beside them the program, whose path this is."""
    for segment in draft.program.segments:
        onnx_file.write(draft.graphs[segment.name], folder / segment.models[NAME], mapped=True)
    path = folder / PROGRAM_FILE
    content = ProgramFile(program=draft.program, outputs=outputs)
    path.write_text(content.model_dump_json(), encoding="utf-8")
    return path


def inputs_of(recipe: Recipe, bench: Bench, feed: Feed) -> tuple[list[Batch], list[Batch], int]:
    """What the original is measured on, and what a candidate, and how many inputs that is.

    One input of typical size, or, since what a program costs depends on what it reads, several real
    ones: one after another, or at once, where the gain shows only there.
    """
    dynamic = split(recipe)[2]
    if not dynamic:
        return [bench.inputs], [bench.inputs if feed is bench.feed else feed.shaped()], 1
    before, after = bench.feed.first(TIMED), feed.first(TIMED)
    if any(step.together for step in dynamic):
        return [bench.feed.together(before)], [feed.together(after)], len(before)
    return before, after, len(before)


def _pace(bench: Bench, model: Model) -> float:
    from openglm.training.pace import seconds_per_step

    assert bench.training is not None
    return seconds_per_step(model, bench.training, bench.model)


def _counter(
    tick: Callable[[str, float], None], text: str, low: float, high: float, expected: int
) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        tick(text, low + (high - low) * min(1.0, done / max(expected, 1)))

    return count


def _finite(outputs: Mapping[str, Any]) -> bool:
    return all(np.isfinite(row).all() for rows in outputs.values() for row in rows)


def _verdict(graph: ir.Model, bench: Bench) -> verdicts.Verdict:
    original = bench.model
    candidate = Model(original.name, original.source, original.task, lambda: graph, config=original.config)
    return verdicts.fit(candidate, bench.setup.device, bench.setup.budget, dims=bench.dims)


def unchanged(bench: Bench) -> Trial:
    """The original itself, as the candidate that is always there."""
    clock = Clock()
    with clock("waiting"), bench.alone(), clock("measuring"):
        times = measure.interleaved(
            {"original": lambda: bench.runner.run(bench.inputs)}, rounds=15, seconds=4
        )
    timing = measure.summary(times["original"])
    candidate = Candidate(
        code=code(()),
        recipe=(),
        outcome="accepted",
        reason="The original, which every other is measured against.",
        size_bytes=bench.original.stat().st_size,
        timing=timing,
        original=timing,
        speedup=1.0,
        quality=bench.baseline,
        loss=0.0,
        fits=bench.verdict.fits,
        seconds=total(clock.seconds),
        spent=clock.rounded(),
    )
    return Trial(candidate, (), bench.original, bench.verdict)


def store(trial: Trial) -> str:
    """A trial as text, its model's file and its own processor beside each other in its folder."""
    if trial.path is not None and trial.processor is not None:
        files = trial.processor.save(trial.path.parent)
        settings = {**trial.processor.settings(), "files": files}
        (trial.path.parent / PROCESSOR_FILE).write_text(json.dumps(settings), encoding="utf-8")
    return json.dumps(
        {
            "candidate": trial.candidate.model_dump(mode="json"),
            "verdict": trial.verdict.model_dump(mode="json") if trial.verdict else None,
            "pace": trial.pace,
        }
    )


def restore(text: str, folder: Path, bench: Bench) -> Trial:
    """A trial that `store` wrote, with its files in `folder`."""
    content = json.loads(text)
    candidate = Candidate.model_validate(content["candidate"])
    recipe = parse(candidate.recipe)
    verdict = verdicts.Verdict.model_validate(content["verdict"]) if content["verdict"] else None
    path = bench.original if not recipe else folder / (PROGRAM_FILE if split(recipe)[2] else MODEL_FILE)
    processor = None
    there = path.is_file()
    settings = folder / PROCESSOR_FILE
    if there and settings.is_file():
        processor = from_settings(json.loads(settings.read_text(encoding="utf-8")), folder)
    gone = candidate.outcome == "accepted" and not there
    return Trial(candidate, recipe, path if there else None, verdict, processor, content["pace"], gone)
