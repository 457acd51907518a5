"""One recipe, tried: applied, judged on data, and measured against the original."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Candidate, Quality
from openglm.device import fit as verdicts
from openglm.device.budget import Budget
from openglm.device.profile import Device
from openglm.errors import OpenGLMError
from openglm.metrics.metric import Metric
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, GraphPass
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import Runner
from openglm.search.candidates import Recipe, code
from openglm.search.feed import Batch, Feed

NOISE = 0.97
"""A candidate at less than this share of the original's speed is slower; above it, noise may be."""


@dataclass
class Bench:
    """What every trial is measured against."""

    model: Model
    feed: Feed
    metric: Metric
    max_drop: float
    device: Device
    budget: Budget
    dims: Mapping[str, int]
    threads: int
    folder: Path
    runner: Runner
    """The original, loaded."""
    reference: dict[str, Any]
    """The original's outputs over the evaluation samples."""
    labels: list[Any]
    baseline: Quality
    inputs: Batch
    """What latency is measured on."""

    def quality(self, outputs: dict[str, Any]) -> Quality:
        """A model's outputs over the evaluation samples, judged."""
        score = self.metric.score(self.feed.evaluation(outputs, self.reference, self.labels))
        return Quality(
            metric=self.metric.name,
            higher_is_better=self.metric.higher_is_better,
            value=round(float(score.value), 6),
            details={name: round(float(value), 6) for name, value in score.details.items()},
            samples=len(self.labels),
        )

    def drop(self, quality: Quality) -> float:
        """How much worse a quality is than the original's; below zero where it is better."""
        difference = self.baseline.value - quality.value
        return difference if self.metric.higher_is_better else -difference


@dataclass(frozen=True)
class Trial:
    """A candidate, and its model's file where there is one."""

    candidate: Candidate
    recipe: Recipe
    path: Path | None = None
    verdict: verdicts.Verdict | None = None

    @property
    def accepted(self) -> bool:
        """Whether it may be chosen."""
        return self.candidate.outcome in ("accepted", "chosen")

    def chosen(self) -> Trial:
        """The same, as the one that was chosen."""
        return replace(self, candidate=self.candidate.model_copy(update={"outcome": "chosen"}))


def attempt(recipe: Recipe, bench: Bench, tick: Callable[[str, float], None]) -> Trial:
    """Apply a recipe and find out whether it pays. Never raises for a recipe that cannot be applied.

    `tick` is told what is done and how much of the trial is over, 0 to 1.
    """
    start = time.perf_counter()
    notes: list[str] = []
    try:
        found = _judge(recipe, bench, tick, notes)
    except OpenGLMError as error:
        found = {"outcome": "failed", "reason": error.problem}
    except Exception as error:  # a pass or an engine that breaks on this model must not cost the others
        text = (str(error).strip() or "no reason given").splitlines()[0]
        found = {"outcome": "failed", "reason": f"{type(error).__name__}: {text[:200]}."}
    path, verdict = found.pop("path", None), found.pop("verdict", None)
    candidate = Candidate(
        code=code(recipe),
        recipe=tuple(step.to_recipe() for step in recipe),
        notes=tuple(notes),
        fits=None if verdict is None else verdict.fits,
        seconds=round(time.perf_counter() - start, 2),
        **found,
    )
    return Trial(candidate, recipe, path, verdict)


def _judge(
    recipe: Recipe, bench: Bench, tick: Callable[[str, float], None], notes: list[str]
) -> dict[str, Any]:
    """The fields of a trial and its candidate; what the passes remark goes into `notes`."""
    graph, changed = bench.model.graph, False
    samples = len(bench.labels)
    context = Context(
        calibration=bench.feed.calibration,
        progress=lambda seen: tick("calibrating", 0.3 * min(1, seen / samples)),
    )
    for step in recipe:
        assert isinstance(step, GraphPass)
        applied = step.apply(graph, context)
        graph, changed = applied.graph, applied.changed
        notes += applied.notes
    if not changed:
        return {"outcome": "refused", "reason": f"{recipe[-1].scheme} finds nothing to change in this model."}
    path = bench.folder / f"{len(list(bench.folder.iterdir()))}.onnx"
    onnx_file.write(graph, path)
    runner = Runner(path, threads=bench.threads)
    outputs, _ = bench.feed.outputs(runner, _counter(tick, "judging", 0.3, 0.8, samples))
    size = path.stat().st_size
    if not _finite(outputs):
        return {"outcome": "refused", "reason": "Its outputs are not finite numbers.", "size_bytes": size}
    quality = bench.quality(outputs)
    tick("measuring", 0.8)
    times = measure.interleaved(
        {"original": lambda: bench.runner.run(bench.inputs), "candidate": lambda: runner.run(bench.inputs)},
        rounds=25,
        seconds=6,
    )
    faster = round(measure.speedup(times["original"], times["candidate"]), 4)
    drop = bench.drop(quality)
    if not drop <= bench.max_drop:
        outcome, reason = "refused", f"Loses {drop:.4g} of {quality.metric}; {bench.max_drop:g} is allowed."
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
        "timing": measure.summary(times["candidate"]),
        "original": measure.summary(times["original"]),
        "speedup": faster,
        "verdict": _verdict(graph, bench),
    }


def _counter(
    tick: Callable[[str, float], None], text: str, low: float, high: float, total: int
) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        tick(text, low + (high - low) * min(1.0, done / max(total, 1)))

    return count


def _finite(outputs: Mapping[str, Any]) -> bool:
    return all(np.isfinite(row).all() for rows in outputs.values() for row in rows)


def _verdict(graph: ir.Model, bench: Bench) -> verdicts.Verdict:
    original = bench.model
    candidate = Model(original.name, original.source, original.task, lambda: graph, config=original.config)
    return verdicts.fit(candidate, bench.device, bench.budget, dims=bench.dims)


def unchanged(bench: Bench, path: Path, verdict: verdicts.Verdict) -> Trial:
    """The original itself, as the candidate that is always there."""
    times = measure.interleaved({"original": lambda: bench.runner.run(bench.inputs)}, rounds=15, seconds=4)
    timing = measure.summary(times["original"])
    candidate = Candidate(
        code=code(()),
        recipe=(),
        outcome="accepted",
        reason="The original, which every other is measured against.",
        size_bytes=path.stat().st_size,
        timing=timing,
        original=timing,
        speedup=1.0,
        quality=bench.baseline,
        fits=verdict.fits,
    )
    return Trial(candidate, (), path, verdict)
