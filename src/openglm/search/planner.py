"""What a search tries next: cheap before dear, and dear only for what shows promise.

First every quantization scheme, then what is known to work on structures of this kind, then what the
sampler proposes. A structure is cut, repaired, exported and measured before it is trained: its speed
and size are final from then on, only its loss is not. Of every few at one effort the most promising
is trained on, longer each time (successive halving; Jamieson and Talwalkar 2016, in the asynchronous
form of Li et al. 2020), and the efforts get about equal time, as there: on a slow processor, where
cutting and measuring takes as long as a short training, fewer are cut for each that is trained.
Towards the end, exits are put on the best, where the data can show what their gates cost; and one is
trained for the rest of the time: a better one that may then lose little enough, or the best, so that it
loses less.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from openglm.passes.distil import Distil
from openglm.search.result import SAME_SPEED, choose
from openglm.search.space import FLOAT, Params, Space
from openglm.search.study import as_json
from openglm.search.trial import NOISE, Trial

ETA = 3
"""Trials at one effort for each that goes on to the next, at most."""
LEAST = 2
"""At least; between the two, as many as take the time that the next effort does."""
SHARES = (0.06, 0.25, 0.25)
"""Of the time limit, what a training at each effort takes."""
LEAST_STEPS = 20
EXITS_AT, EXITS_SHARE = 0.4, 0.25
"""Of the time limit, how much is left when exits are put on the best, and what they learn for."""
LAST = 0.2
"""Of the time limit, how much is left when the best is trained for the rest of it."""
REPAIRED = (0.2, 0.6, 0.8)
"""Of a loss, what the training at each effort is thought to leave, until it is known."""
TRIES = 20
"""Proposals of the sampler that were tried before, until the search is thought to be through."""


@dataclass(frozen=True)
class Done:
    """A trial that is over, with what it was asked for."""

    params: Params
    effort: int
    trial: Trial

    @property
    def steps(self) -> tuple[Distil, ...]:
        """What it was trained with."""
        return tuple(step for step in self.trial.recipe if isinstance(step, Distil))


@dataclass(frozen=True)
class Plan:
    """What to try next."""

    params: Params
    effort: int
    training: tuple[Distil, ...] = ()


@dataclass
class Planner:
    """Decides what is tried next from what is known."""

    space: Space
    max_drop: float
    time_limit_s: float
    can_train: bool
    training: Distil = field(default_factory=Distil)
    """What a training is like, but for its steps."""
    begun: set[str] = field(default_factory=set)
    """What has been tried or is under way, as `key` gives it."""
    exits_begun: bool = False
    """Whether exits are among it: they are put on once."""

    def begin(self, params: Params, effort: int) -> None:
        """Take down that something is under way."""
        self.begun.add(key(params, effort))
        self.exits_begun |= bool(params.get("exits"))

    def next(self, done: Sequence[Done], left_s: float) -> Plan | None:
        """What to try next, of what needs no sampler; none where the sampler has a say."""
        for params in (*self.untried(), *self._mixed(done)):
            if key(params, 0) not in self.begun:
                return Plan(params, 0)
        if not self.space.structural:
            return None
        if (exits := self._with_exits(done, left_s)) is not None:
            return exits
        if (further := self._to_the_end(done, left_s)) is not None:
            return further
        if (promoted := self._promotion(done, left_s)) is not None:
            return promoted
        for params in self.space.first(self._best_scheme(done)):
            if key(params, 0) not in self.begun:
                return Plan(params, 0)
        return None

    def untried(self) -> list[Params]:
        """Quantization schemes of the structure as it is that have not been begun."""
        return [params for params in self._schemes() if key(params, 0) not in self.begun]

    def _schemes(self) -> Iterator[Params]:
        # In float, too, what is gained by cleaning alone.
        first, *others = [name for name in self.space.choices["quantization"] if name != FLOAT] or [FLOAT]
        for name in dict.fromkeys((first, FLOAT, *others)):
            yield self.space.untouched(quantization=name)

    def _mixed(self, done: Sequence[Done]) -> Iterator[Params]:
        """Schemes that lost too much, but not all, with the most sensitive modules spared; only those
        that would be chosen as they are, for sparing makes them neither faster nor smaller."""
        for item in done:
            loss = item.trial.candidate.loss
            plain = not self.space.changes_module(item.params) and not item.params.get("spared")
            if not plain or loss is None or not self.space.sensitive:
                continue
            if self.max_drop < loss <= 10 * max(self.max_drop, 0.005) and _outdoes(item.trial, done):
                for count in self.space.choices["spared"][1:]:
                    yield item.params | {"spared": count}

    def fixed(self, done: Sequence[Done]) -> Params:
        """What the sampler is not asked: quantization is settled before structures are cut."""
        exits = {"exits": False} if "exits" in self.space.choices else {}
        return {"quantization": self._best_scheme(done), "spared": 0, **exits}

    def _best_scheme(self, done: Sequence[Done]) -> str:
        """The quantization that is fastest of those accepted on the unchanged structure; of those equally
        fast, the smallest."""
        plain = [item for item in done if not self.space.changes_module(item.params) and item.trial.accepted]
        fastest = max((item.trial.candidate.speedup or 0.0 for item in plain), default=0.0)
        equal = [item for item in plain if (item.trial.candidate.speedup or 0.0) * SAME_SPEED >= fastest]
        best = min(equal, key=lambda item: item.trial.candidate.size_bytes or 0, default=None)
        return str(best.params.get("quantization", FLOAT)) if best is not None else FLOAT

    def _with_exits(self, done: Sequence[Done], left_s: float) -> Plan | None:
        """The best so far with exits, once, when it is time."""
        if not self.can_train or "exits" not in self.space.choices:
            return None
        if self.exits_begun or left_s > EXITS_AT * self.time_limit_s:
            return None
        of = _best(done)
        # A step takes no longer than on the structure that is least cut of those that were measured.
        paces = [item.trial.pace for item in done if item.params == of.params and item.trial.pace]
        paces = paces or [item.trial.pace for item in done if item.trial.pace]
        seconds = min(EXITS_SHARE * self.time_limit_s, left_s)
        steps = _rounded(seconds / max(paces)) if paces else 0
        if steps < LEAST_STEPS:
            return None
        params = self.space.untouched(quantization=self._best_scheme(done)) | of.params | {"exits": True}
        return Plan(params, of.effort + 1, (*of.steps, self._training(steps, of.effort)))

    def _to_the_end(self, done: Sequence[Done], left_s: float) -> Plan | None:
        """What is trained on for the rest of the time: the fastest of those that a last training is thought
        to get accepted; if there is none, the best, where it was trained."""
        if not self.can_train or left_s > LAST * self.time_limit_s:
            return None
        hopeful = [
            item
            for item in done
            if item.steps
            and self._promising(item, done)
            and (item.trial.candidate.loss or 0.0) * repaired(done, item.effort) <= self.max_drop
        ]
        of = max(hopeful, key=lambda item: item.trial.candidate.speedup or 0.0, default=_best(done))
        steps = _steps(of, done, left_s) if of.steps else 0
        if not steps or key(of.params, of.effort + 1) in self.begun:
            return None
        return Plan(of.params, of.effort + 1, (*of.steps, self._training(steps, of.effort)))

    def _promotion(self, done: Sequence[Done], left_s: float) -> Plan | None:
        """The most promising trial that may be trained on now."""
        if not self.can_train:
            return None
        structured = [item for item in done if self.space.changes_module(item.params)]
        for effort in reversed(range(len(SHARES))):
            seconds = min(SHARES[effort] * self.time_limit_s, left_s)
            ready = [
                item
                for item in structured
                if item.effort == effort and self._promising(item, done) and _steps(item, done, seconds)
            ]
            if not ready:
                continue
            at_effort = [item for item in structured if item.effort == effort]
            gone_on = [item for item in structured if item.effort == effort + 1]
            best = max(ready, key=lambda item: self._value(item, done))
            # No time for more of the same: what there is goes on now, or never.
            urgent = left_s < (SHARES[effort] + SHARES[max(effort - 1, 0)]) * self.time_limit_s
            enough = len(at_effort) >= ETA * (len(gone_on) + 1) or (
                len(at_effort) >= LEAST * (len(gone_on) + 1)
                and _seconds(at_effort) >= _seconds(gone_on) + seconds
            )
            if urgent or enough or effort == len(SHARES) - 1:
                steps = _steps(best, done, seconds)
                return Plan(best.params, effort + 1, (*best.steps, self._training(steps, effort)))
        return None

    def _training(self, steps: int, effort: int) -> Distil:
        return self.training.model_copy(update={"steps": steps, "seed": effort})

    def _promising(self, item: Done, done: Sequence[Done]) -> bool:
        """Whether training could make it the best."""
        begun = key(item.params, item.effort + 1) in self.begun
        return not begun and not item.trial.accepted and _outdoes(item.trial, done)

    def _value(self, item: Done, done: Sequence[Done]) -> tuple[bool, float]:
        """How much is to be hoped for: that it fits the budget; then its speed, less where its loss is
        thought to stay too high."""
        candidate = item.trial.candidate
        assert candidate.loss is not None
        expected = max(candidate.loss, 0.0)
        for effort in range(item.effort, len(SHARES)):
            expected *= repaired(done, effort)
        over = max(0.0, expected - self.max_drop) / (self.max_drop + 0.005)
        return bool(candidate.fits), (candidate.speedup or 0.0) / (1 + over)


def _best(done: Sequence[Done]) -> Done:
    """What would be chosen now."""
    best = choose([item.trial for item in done])
    return next(item for item in done if item.trial is best)


def _outdoes(trial: Trial, done: Sequence[Done]) -> bool:
    """Whether a trial that was judged would be chosen before all that were accepted, loss apart."""
    candidate = trial.candidate
    if candidate.loss is None or (candidate.speedup or 0.0) < NOISE:
        return False
    supposed = trial.chosen()
    return choose([*(item.trial for item in done), supposed]) is supposed


def _seconds(items: Sequence[Done]) -> float:
    return sum(item.trial.candidate.seconds or 0.0 for item in items)


def _steps(item: Done, done: Sequence[Done], seconds: float) -> int:
    """Steps of training that fit the time, to two digits; 0 where hardly any does."""
    pace = next(
        (other.trial.pace for other in done if other.params == item.params and other.trial.pace), None
    )
    steps = seconds / pace if pace else 0.0
    return _rounded(steps) if steps >= LEAST_STEPS else 0


def _rounded(steps: float) -> int:
    """To two digits, down."""
    if steps < 1:
        return 0
    unit = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return int(steps // unit * unit)


def repaired(done: Sequence[Done], effort: int) -> float:
    """What a training of trials at an effort leaves of a loss: the median of what such left so far."""
    by_key = {key(item.params, item.effort): item for item in done}
    shares = []
    for item in done:
        before = by_key.get(key(item.params, effort)) if item.effort == effort + 1 else None
        if before is None:
            continue
        old, new = before.trial.candidate.loss, item.trial.candidate.loss
        if old is not None and new is not None and old > 0:
            shares.append(min(1.0, max(new, 0.0) / old))
    return statistics.median([*shares, REPAIRED[min(effort, len(REPAIRED) - 1)]])


def key(params: Params, effort: int) -> str:
    """What tells two attempts apart."""
    return f"{effort} {as_json(params)}"
