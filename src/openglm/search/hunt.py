"""A search under way: asks the planner and the sampler, hands out trials, and takes down what they found."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from openglm.bundle.manifest import Candidate, Sensitivity
from openglm.dynamic.calibration import CERTAINTY, proven
from openglm.errors import InputError, OutputError
from openglm.model.analysis.statistics import analyse
from openglm.passes.distil import Distil
from openglm.passes.program import ProgramOfExits
from openglm.passes.recipe import Recipe, code, digest, parse, toml
from openglm.search.bench import Bench
from openglm.search.planner import TRIES, Done, Plan, Planner, key
from openglm.search.result import Result, choose, front
from openglm.search.sensitivity import order, sensitivity
from openglm.search.space import Space
from openglm.search.study import Asked, Study
from openglm.search.trial import Trial, restore, unchanged
from openglm.search.workers import Crew, Job

SENSITIVITY_SHARE = 0.05
"""Of the time limit, what sensitivity may take."""


@dataclass(frozen=True)
class Progress:
    """Where an optimization is."""

    text: str
    done: float
    """Seconds that are over."""
    total: float | None
    """Seconds that it may take; None while it is being prepared."""
    finished: Trial | None = None
    """A candidate that has just been judged."""


@dataclass
class Hunt:
    """One run of a search, new or gone on with."""

    bench: Bench
    folder: Path
    recipe: Recipe | None
    """The only one to try, where the user gave one."""
    time_limit_s: float
    started: float
    """When this run began, by `time.monotonic`."""
    progress: Callable[[Progress], None]
    storage: str | None = None
    stopped: bool = False
    full: str = ""
    """Why nothing more can be kept, where the disk is full."""
    sensitivities: tuple[Sensitivity, ...] = ()
    done: list[Done] = field(default_factory=list)
    skipped: list[Candidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        bench = self.bench
        statistics = analyse(bench.model.graph, bench.dims)
        may_train = bench.cuts and self.recipe is None
        self.space = Space.of(
            bench.model, statistics, structure=may_train, gates_drop=_gates_drop(bench) if may_train else None
        )
        if bench.training is not None and self.space.structural:
            from openglm.training.samples import check_labels

            check_labels(bench.model, bench.training)  # before hours go by without a training that ends
        fixed = {"recipe": toml([step.to_recipe() for step in self.recipe])} if self.recipe else {}
        limits = {
            "budget": bench.setup.budget.model_dump_json(),
            "largest loss": str(bench.setup.max_drop),
        }
        choices = {} if self.recipe else self.space.choices
        self.study = Study(self.folder, {**bench.fingerprint(), **limits, **fixed}, choices, self.storage)
        self.before_s = float(self.study.recall("elapsed_s") or 0.0)
        pictures = any(len(spec.shape) == 4 for spec in bench.model.inputs)
        training = Distil(augment="mirror_shift" if pictures else "none")
        self.planner = Planner(self.space, bench.setup.max_drop, self.time_limit_s, may_train, training)
        self._tried: set[str] = set()
        for told in self.study.told():
            try:
                self._take(told.params, told.effort, told.number, told.content)
            except (KeyError, TypeError, ValueError) as error:  # pydantic's and JSON's errors are ValueErrors
                raise InputError(
                    f"What the record of the search in {self.folder} has of trial {told.number} is damaged.",
                    "Start anew with --fresh, or give another --output.",
                ) from error
        self._recall_sensitivity()

    @property
    def elapsed_s(self) -> float:
        """Seconds that the search has taken, in earlier runs too."""
        return self.before_s + time.monotonic() - self.started

    @property
    def left_s(self) -> float:
        """Seconds until nothing new is started."""
        return self.time_limit_s - self.elapsed_s

    def run(self, crew: Crew) -> None:
        """Try recipes until the time is up, nothing is left, or Ctrl-C; what was found is in `done`."""
        self._say("measuring the original")
        self.done.insert(0, Done({}, 0, unchanged(self.bench)))
        running: dict[int, tuple[Asked, Recipe]] = {}
        try:
            while True:
                while len(running) < crew.size and not self.full and (job := self._next(bool(running))):
                    asked, recipe = job
                    running[asked.number] = job
                    place = self._place(asked.number)
                    crew.submit(Job(asked.number, recipe, asked.effort, place, self._expected(asked)))
                if not running:
                    break
                number, content = crew.wait(lambda text, share: self._say(text, share))
                asked, recipe = running.pop(number)
                trial = self._record(asked, recipe, content)
                self.progress(Progress(code(recipe), self.elapsed_s, self.time_limit_s, finished=trial))
                if self.recipe is None and self.study.recall("sensitivity") is None:
                    self._find_sensitivity()
        except KeyboardInterrupt:  # wherever it fell, what has been judged so far counts
            self.stopped = True
        except OutputError as error:
            self.full = f"{error.problem} {error.advice}"
        self._leave(running)

    def _leave(self, running: dict[int, tuple[Asked, Recipe]]) -> None:
        """Note what was not tried, and leave the record so that another run can go on."""
        reason = "The search was stopped before it was judged." if self.stopped else self.full
        waiting = [(asked.effort, recipe) for asked, recipe in running.values()]
        if self.recipe is None:
            waiting += [(0, self.space.recipe(params)) for params in self.planner.untried()]
        self.skipped = [
            Candidate(
                code=code(recipe),
                recipe=tuple(step.to_recipe() for step in recipe),
                outcome="not tried",
                reason=reason or "The time was up before it.",
                effort=effort,
            )
            for effort, recipe in waiting
        ]
        try:
            for asked, _ in running.values():
                self.study.again(asked)
            self.study.remember("elapsed_s", round(self.elapsed_s, 1))
        except OutputError as error:
            self.full = self.full or f"{error.problem} {error.advice}"
        if not (self.stopped or self.full):
            self._tidy()

    def _tidy(self) -> None:
        """Drop what a search that has ended needs no more: checkpoints, and models that others beat."""
        shutil.rmtree(self.folder / "training", ignore_errors=True)
        trials = [item.trial for item in self.done]
        kept = {id(trial) for trial in (*front(trials), choose(trials))}
        for item in self.done:
            path = item.trial.path
            if path is not None and item.trial.recipe and id(item.trial) not in kept:
                shutil.rmtree(path.parent, ignore_errors=True)
        self.done = [
            item
            if item.trial.path is None or item.trial.path.exists()
            else replace(item, trial=replace(item.trial, path=None, gone=True))
            for item in self.done
        ]

    def _next(self, busy: bool) -> tuple[Asked, Recipe] | None:
        """The next trial, begun in the study; None where there is none, or no time for it."""
        if self.left_s <= 0:
            return None
        if self.recipe is not None:
            if digest(self.recipe) in self._tried or busy:
                return None
            return self.study.plan({}, 0), self.recipe
        for _ in range(TRIES):
            if self.study.interrupted:
                asked = self.study.resume()
                plan: Plan | None = Plan(asked.params, asked.effort, self._training(asked))
            elif (plan := self.planner.next(self.done, self.left_s)) is not None:
                asked = self.study.plan(plan.params, plan.effort)
            elif self.space.structural:
                asked = self.study.propose(self.planner.fixed(self.done))
                plan = Plan(asked.params, asked.effort)
            else:
                return None
            assert plan is not None
            self.planner.begin(plan.params, plan.effort)
            recipe = self.space.recipe(plan.params, plan.training)
            if digest(recipe) not in self._tried:
                self._tried.add(digest(recipe))
                if plan.training:
                    self.study.remember(f"training {key(plan.params, plan.effort)}", _plain(plan.training))
                return asked, recipe
            self.study.drop(asked)
        return None

    def _expected(self, asked: Asked) -> float | None:
        """How many times faster a structure was at smaller efforts."""
        known = [item.trial.candidate.speedup for item in self.done if item.params == asked.params]
        speedups = [speedup for speedup in known if speedup]
        return statistics.median(speedups) if speedups else None

    def _training(self, asked: Asked) -> tuple[Distil, ...]:
        """The training that an interrupted trial was begun with."""
        known = self.study.recall(f"training {key(asked.params, asked.effort)}") or []
        return tuple(step for step in parse(known) if isinstance(step, Distil))

    def _record(self, asked: Asked, recipe: Recipe, content: str) -> Trial:
        trial = self._take(asked.params, asked.effort, asked.number, content)
        candidate = trial.candidate
        values = None
        if candidate.speedup and candidate.size_bytes and candidate.loss is not None:
            size = candidate.size_bytes / max(self.bench.original.stat().st_size, 1)
            values = (1 / candidate.speedup, size, candidate.loss)
        over = (candidate.loss if candidate.loss is not None else 1.0) - self.bench.setup.max_drop
        self.study.finish(asked, content, values, over)
        self.study.remember("elapsed_s", round(self.elapsed_s, 1))
        return trial

    def _take(self, params: dict[str, Any], effort: int, number: int, content: str) -> Trial:
        trial = restore(content, self._place(number), self.bench)
        self.done.append(Done(params, effort, trial))
        self.planner.begin(params, effort)
        self._tried.add(digest(trial.recipe))
        return trial

    def _place(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04}"

    def _say(self, text: str, share: float | None = None) -> None:
        part = "" if share is None or share <= 0 else f" {share:.0%}"
        self.progress(Progress(f"{text}{part}", self.elapsed_s, self.time_limit_s))

    def _find_sensitivity(self) -> None:
        """Find out, once, what quantizing or cutting each part of the model costs."""
        seconds = min(SENSITIVITY_SHARE * self.time_limit_s, self.left_s)
        if seconds <= 0:
            return
        found = sensitivity(self.bench, seconds, lambda text, share: self._say(f"sensitivity: {text}", share))
        self.study.remember("sensitivity", [item.model_dump(mode="json") for item in found])
        self._recall_sensitivity()

    def _recall_sensitivity(self) -> None:
        known = self.study.recall("sensitivity") or []
        self.sensitivities = tuple(Sensitivity.model_validate(item) for item in known)
        self.planner.space = self.space = self.space.sparing(order(self.sensitivities))

    def result(self, home: Any) -> Result:
        """What was found so far."""
        return Result(
            bench=self.bench,
            trials=[item.trial for item in self.done],
            skipped=self.skipped,
            stopped=self.stopped,
            full=self.full,
            sensitivities=self.sensitivities,
            elapsed_s=round(self.elapsed_s, 1),
            home=home,
        )


def _gates_drop(bench: Bench) -> float | None:
    """What the gates of exits may cost: half of what may be lost; none where the data could not show it."""
    drop = bench.setup.max_drop / 2
    most = ProgramOfExits(max_drop=drop).samples
    deciding = sum(1 for _ in islice(bench.thresholds(trained=True), most)) // 2
    return drop if proven(np.zeros(deciding), drop, CERTAINTY) else None


def _plain(training: Sequence[Distil]) -> list[dict[str, Any]]:
    return [step.to_recipe() for step in training]
