"""`optimize`: verdict first, then recipes tried one after another, and the best of them kept."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from openglm.bundle.manifest import Candidate, Quality
from openglm.device import profile
from openglm.device.budget import Budget
from openglm.device.fit import Verdict, fit
from openglm.device.host import usable_cores
from openglm.device.profile import Device
from openglm.errors import InputError, OutputError
from openglm.metrics import resolve
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import AutoModel
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.runtimes.onnxruntime import Runner, check_threads
from openglm.search.candidates import code, recipes
from openglm.search.feed import Feed, sizes
from openglm.search.result import Result
from openglm.search.trial import Bench, Trial, attempt, unchanged

CALIBRATION_SAMPLES = 64
EVALUATION_SAMPLES = 256


@dataclass(frozen=True)
class Progress:
    """Where an optimization is."""

    text: str
    done: float
    """In candidates; the fraction is that of the running one."""
    total: int
    finished: Trial | None = None
    """A candidate that has just been judged."""


def optimize(
    model: Model | str | PathLike[str],
    device: Device | str | PathLike[str],
    budget: Budget | None = None,
    *,
    data: Any = None,
    metric: str | None = None,
    max_drop: float = 0.01,
    time_limit_s: float = 600.0,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    evaluation_samples: int = EVALUATION_SAMPLES,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Make `model` fit `device` within `budget`, keeping only what is measured to pay.

    `data` is a path, a `Dataset` or an iterable of dicts; without it, label-free text or noise
    stands in. `metric` is "fidelity" (the default), "accuracy", "spearman" or "module:function";
    `max_drop` how much of it may be lost. Latency is measured on ONNX Runtime with `threads`
    threads (the device's cores, up to this machine's), interleaved with the original. A recipe that
    is slower than the original, or loses more, is refused; the best of the rest is the fastest that
    fits the budget. After `time_limit_s` no new recipe is started, and Ctrl-C ends the search: what
    is best so far is returned. Raises `InputError` for input that cannot be used.
    """
    if not 0 <= max_drop < float("inf"):
        raise InputError(
            f"A loss of at most {max_drop:g} makes no sense.", "Give --max-drop from 0 on, such as 0.01."
        )
    if not time_limit_s > 0:
        raise InputError(f"A time limit of {time_limit_s:g} seconds leaves no time.", "Give a longer --time.")
    if calibration_samples < 1 or evaluation_samples < 1:
        raise InputError(
            "At least one sample is needed to calibrate and to judge.", "Give --samples from 1 on."
        )
    check_threads(threads)
    started = time.monotonic()
    device = profile.load(device if isinstance(device, Device) else str(device))
    budget = budget or Budget()
    chosen_metric = resolve(metric or "fidelity")
    progress(Progress("loading the model", 0, 1))
    model = AutoModel.from_pretrained(model)
    onnx_file.check_finite(model.graph)
    verdict = fit(model, device, budget, dims=sizes(model, dims))
    feed = Feed(
        model,
        data,
        verdict.dims,
        calibration_samples=calibration_samples,
        evaluation_samples=evaluation_samples,
    )
    if chosen_metric.needs_labels and not feed.labelled:
        raise InputError(
            f"The metric {chosen_metric.name} needs labels, and the data has none.", "Use fidelity."
        )
    try:
        home = tempfile.TemporaryDirectory(prefix="openglm-")
    except OSError as error:
        raise _no_room("the folder for temporary files", error) from error
    try:
        bench = _bench(
            model,
            feed,
            chosen_metric,
            max_drop,
            device,
            budget,
            verdict,
            threads or min(device.cpu.cores, usable_cores()),
            home,
        )
        return _search(bench, verdict, home, started + time_limit_s, progress)
    except BaseException:
        home.cleanup()
        raise


def _bench(
    model: Model, feed: Feed, metric: Any, max_drop: float, device: Device, budget: Budget, verdict: Verdict,
    threads: int, home: tempfile.TemporaryDirectory[str],
) -> Bench:  # fmt: skip
    original = Path(home.name) / "original.onnx"
    try:
        onnx_file.write(model.graph, original)
    except OSError as error:
        raise _no_room(home.name, error) from error
    runner = Runner(original, threads=threads)
    outputs, labels = feed.outputs(runner)
    bench = Bench(
        model=model,
        feed=feed,
        metric=metric,
        max_drop=max_drop,
        device=device,
        budget=budget,
        dims=verdict.dims,
        threads=threads,
        folder=Path(home.name),
        runner=runner,
        reference=outputs,
        labels=labels,
        baseline=Quality(metric=metric.name, value=0.0, samples=len(labels)),
        inputs=feed.shaped(),
    )
    bench.baseline = bench.quality(outputs)
    return bench


def _search(
    bench: Bench, verdict: Verdict, home: Any, deadline: float, progress: Callable[[Progress], None]
) -> Result:
    waiting = recipes(analyse(bench.model.graph, bench.dims))
    total = len(waiting) + 1
    progress(Progress("measuring the original", 0, total))
    trials = [unchanged(bench, bench.folder / "original.onnx", verdict)]
    stopped = False
    try:
        for index, recipe in enumerate(waiting, start=1):
            if time.monotonic() > deadline:
                break
            name = code(recipe)
            trial = attempt(
                recipe,
                bench,
                lambda text, part, name=name, index=index: progress(  # type: ignore[misc]
                    Progress(f"{name}: {text}", index + part, total)
                ),
            )
            trials.append(trial)
            progress(Progress(name, index + 1, total, finished=trial))
    except KeyboardInterrupt:  # wherever it fell, what has been judged so far counts
        stopped = True
    reason = "The search was stopped before it was judged." if stopped else "The time was up before it."
    skipped = [
        Candidate(
            code=code(recipe),
            recipe=tuple(step.to_recipe() for step in recipe),
            outcome="not tried",
            reason=reason,
        )
        for recipe in waiting[len(trials) - 1 :]
    ]
    return Result(bench, verdict, trials, skipped, stopped, home)


def _no_room(where: str, error: OSError) -> OutputError:
    return OutputError(
        f"Work files cannot be written to {where} ({error.strerror}).",
        "Free some space there, or set TMPDIR to another folder.",
    )
