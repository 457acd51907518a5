"""Thresholds of exits, and how many tokens stay, set on data so that they cost no more than was allowed.

One half of the rows proposes sets of thresholds, with few exits or many, strict or lax, with all tokens or
fewer: of those whose risk it finds alike, the one with the least work. The other half tests them in the
order of that risk and stops at the first that fails (Learn then Test, with fixed sequence testing:
Angelopoulos et al. 2021; ordered by one half, and only the best of it tested, as in Pareto testing:
Laufer-Goldshtein et al. 2023). Of those that pass, the one with the least work is taken. A set passes where
the data bet successfully against its mean loss being above what is allowed (Waudby-Smith and Ramdas 2023),
so that the claim holds with the stated certainty whatever the distribution is, as long as later inputs come
from the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Thresholds = tuple[float | None, ...]

CERTAINTY = 0.9
"""With which thresholds cost no more than allowed, if nothing else is said."""
LAX = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
"""How much may be at risk at one exit, in shares of the loss allowed, from strict to lax."""
DEVIATIONS = 2.0
"""What is at risk is the mean loss and so many of its standard errors."""
CUT = 0.02
"""What a cut with its gate takes, as a share of the whole model's work: about what benchmarks/gates.py finds
for an encoder of six layers."""


class Option(NamedTuple):
    """What exits do with rows, in one of the ways that a program could run."""

    scores: np.ndarray
    """(exits, rows), higher where an exit is surer."""
    losses: np.ndarray
    """(exits + 1, rows), from 0 to 1, the end's last."""
    work: np.ndarray
    """The share of the whole model's work that leaving there takes, (exits + 1,) or (exits + 1, rows)."""
    cuts: np.ndarray | int = 0
    """How many cuts there are until there beside those of exits, (exits + 1,)."""

    def of(self, rows: slice) -> Option:
        """Of these rows alone."""
        work = self.work if self.work.ndim == 1 else self.work[:, rows]
        return Option(self.scores[:, rows], self.losses[:, rows], work, self.cuts)

    def found(self, thresholds: Thresholds) -> tuple[np.ndarray, np.ndarray, float]:
        """What rows that leave by these thresholds lose and what work they take, (rows,), and the mean of
        that work with that of the cuts that they come to."""
        place = leaving(self.scores, thresholds)
        rows = np.arange(len(place))
        work = self.work[place] if self.work.ndim == 1 else self.work[place, rows]
        cuts = np.cumsum([*(least is not None for least in thresholds), False]) + self.cuts
        cost = float((work + CUT * cuts[place]).mean()) if rows.size else 1.0
        return self.losses[place, rows], work, cost


@dataclass(frozen=True)
class Calibrated:
    """Thresholds, and what was found of them on the rows that decided."""

    thresholds: Thresholds
    """The least score to leave with at each exit; none: nobody leaves there."""
    drop: float
    """The mean loss beyond the whole model's."""
    work: float
    """The mean share of the whole model's work."""
    rows: int
    """How many decided."""
    option: int = 0
    """Which of the ways to run."""


def leaving(scores: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """The exit at which each row leaves, (rows,), the number of exits being the end.

    `scores` is (exits, rows), higher where an exit is surer; a score that is no number does not leave.
    """
    place = np.full(scores.shape[1], len(scores))
    for exit_, threshold in reversed(list(enumerate(thresholds))):
        if threshold is not None:
            place[scores[exit_] >= threshold] = exit_
    return place


def calibrate(options: Sequence[Option], max_drop: float, certainty: float) -> Calibrated:
    """The thresholds, and the way to run, with the least work of those that pass, their cuts counted in.

    The first of `options` is the whole model. The mean loss beyond that of its end is at most `max_drop`,
    with `certainty`, from 0 to 1.
    """
    proposing = [option.of(slice(0, None, 2)) for option in options]
    deciding = [option.of(slice(1, None, 2)) for option in options]
    whole = deciding[0].losses[-1]
    best: tuple[int, Thresholds] = 0, (None,) * len(options[0].scores)
    least = deciding[0].found(best[1])[2]
    for number, tried in _proposed(proposing, max_drop):
        lost, _, cost = deciding[number].found(tried)
        if not proven(lost - whole, max_drop, certainty):
            break
        if cost < least:
            best, least = (number, tried), cost
    number, thresholds = best
    lost, work, _ = deciding[number].found(thresholds)
    if not work.size:
        return Calibrated(thresholds, 0.0, 1.0, 0)
    return Calibrated(thresholds, float((lost - whole).mean()), float(work.mean()), len(work), number)


def _proposed(options: Sequence[Option], max_drop: float) -> list[tuple[int, Thresholds]]:
    """Sets of thresholds, the least risky first, each with less work than those before: in every way to run,
    from each exit on, and with each share of what is allowed, exits left out whose cuts take more than they
    save.

    A set's risk is the mean of what it loses and some of that mean's standard errors.
    """
    whole = options[0].losses[-1]
    found: dict[tuple[int, Thresholds], tuple[float, float]] = {}
    for number, option in enumerate(options):
        excess = option.losses - whole
        none: Thresholds = (None,) * len(option.scores)
        tried = {none} if number else set()
        for lax in LAX:
            pairs = zip(option.scores, excess[:-1], strict=True)
            each = [_threshold(score, lost, lax * max_drop) for score, lost in pairs]
            tried |= {_worthwhile(option, (*[None] * first, *each[first:])) for first in range(len(each))} - {
                none
            }
        for thresholds in tried:
            lost, _, cost = option.found(thresholds)
            lost = lost - whole
            risk = float(lost.mean() + DEVIATIONS * lost.std() / len(lost) ** 0.5) if lost.size else 0.0
            found[number, thresholds] = risk, cost
    proposed, least = [], np.inf
    for key in sorted(found, key=lambda key: found[key]):
        if found[key][1] < least:
            least = found[key][1]
            proposed.append(key)
    return proposed


def _worthwhile(option: Option, thresholds: Thresholds) -> Thresholds:
    """These thresholds without those that save too little, one after another."""
    while True:
        fewer = [
            (*thresholds[:place], None, *thresholds[place + 1 :])
            for place, least in enumerate(thresholds)
            if least is not None
        ]
        best = min((*fewer, thresholds), key=lambda tried: option.found(tried)[2])
        if best == thresholds:
            return thresholds
        thresholds = best


def _threshold(scores: np.ndarray, excess: np.ndarray, allowed: float) -> float | None:
    """The least score at which what those above it lose puts no more than `allowed` at risk.

    That those who leave lose nothing in the mean is no proof where few of many decide: they may lose and win
    alike, and other rows will not win as often.
    """
    known = np.isfinite(scores)
    count = len(scores)
    scores, excess = scores[known], excess[known]
    order = np.argsort(-scores, kind="stable")
    ordered, lost = scores[order], excess[order]
    risk = (np.cumsum(lost) + DEVIATIONS * np.sqrt(np.cumsum(np.square(lost)))) / max(count, 1)
    whole = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]  # equal scores leave together
    places = np.flatnonzero(whole & (risk <= allowed + 1e-12))
    return float(ordered[places[-1]]) if places.size else None


def proven(excess: np.ndarray, max_drop: float, certainty: float) -> bool:
    """Whether rows (rows,) from -1 to 1 show that their mean is at most `max_drop`, with `certainty`.

    A capital of 1 is bet, row by row, against the mean's being above it; it grows to 1 / (1 - certainty)
    with at most that probability if it is above.
    """
    if max_drop >= 1:
        return len(excess) > 0
    scaled, limit = (excess + 1) / 2, (max_drop + 1) / 2
    count = len(scaled)
    before = np.arange(1, count + 1)
    mean = (0.5 + np.concatenate([[0.0], np.cumsum(scaled)[:-1]])) / before
    squares = np.square(scaled - mean)
    variance = (0.25 + np.concatenate([[0.0], np.cumsum(squares)[:-1]])) / before
    stake = np.sqrt(2 * np.log(1 / (1 - certainty)) / (count * variance))
    # A stake below this never loses all.
    gain = np.log1p(np.minimum(stake, 0.9 / (1 - limit)) * (limit - scaled))
    return bool(count) and bool(np.cumsum(gain).max() >= np.log(1 / (1 - certainty)))
