"""Thresholds of exits, set on data so that what leaves early costs no more than was allowed.

One half of the rows proposes sets of thresholds, with few exits or many, strict or lax, in the order of
the risk that it sees in them; the other half tests them in that order and stops at the first that fails
(Learn then Test, with fixed sequence testing: Angelopoulos et al. 2021; ordered by one half as in Pareto
testing: Laufer-Goldshtein et al. 2023). Of those that pass, the one with the least work is taken. A set
passes where the data bet successfully against its mean loss being above what is
allowed (Waudby-Smith and Ramdas 2023), so that the claim holds with the stated certainty whatever the
distribution is, as long as later inputs come from the same one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CERTAINTY = 0.9
"""With which thresholds cost no more than allowed, if nothing else is said."""
LAX = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""How much, in shares of the loss allowed, those that leave at one exit may lose, from strict to lax."""
CUT = 0.02
"""What a cut with its gate takes, as a share of the whole model's work: about what benchmarks/gates.py finds
for an encoder of six layers."""


@dataclass(frozen=True)
class Calibrated:
    """Thresholds, and what was found of them on the rows that decided."""

    thresholds: tuple[float | None, ...]
    """The least score to leave with at each exit; none: nobody leaves there."""
    drop: float
    """The mean loss beyond the whole model's."""
    work: float
    """The mean share of the whole model's work."""
    rows: int
    """How many decided."""


def leaving(scores: np.ndarray, thresholds: tuple[float | None, ...]) -> np.ndarray:
    """The exit at which each row leaves, (rows,), the number of exits being the end.

    `scores` is (exits, rows), higher where an exit is surer; a score that is no number does not leave.
    """
    place = np.full(scores.shape[1], len(scores))
    for exit_, threshold in reversed(list(enumerate(thresholds))):
        if threshold is not None:
            place[scores[exit_] >= threshold] = exit_
    return place


def calibrate(
    scores: np.ndarray, losses: np.ndarray, work: np.ndarray, max_drop: float, certainty: float
) -> Calibrated:
    """The thresholds with the least work of those that pass, their cuts counted in.

    `scores` is (exits, rows), higher where an exit is surer; `losses` (exits + 1, rows), from 0 to 1,
    the end's last; `work` (exits + 1,) the share of the whole model's work that leaving there takes.
    The mean loss beyond the end's is at most `max_drop`, with `certainty`, from 0 to 1.
    """
    half, deciding = slice(0, None, 2), slice(1, None, 2)
    excess = losses - losses[-1]
    rows = np.arange(losses.shape[1])[deciding]
    found: tuple[float | None, ...] = (None,) * len(scores)
    least = float(work[-1])
    for tried in _proposed(scores[:, half], excess[:, half], work, max_drop):
        place = leaving(scores[:, rows], tried)
        if not proven(excess[place, rows], max_drop, certainty):
            break
        if (cost := _cost(place, tried, work)) < least:
            found, least = tried, cost
    if not rows.size:
        return Calibrated(found, 0.0, 1.0, 0)
    place = leaving(scores[:, rows], found)
    return Calibrated(found, float(excess[place, rows].mean()), float(work[place].mean()), len(rows))


def _cost(place: np.ndarray, thresholds: tuple[float | None, ...], work: np.ndarray) -> float:
    """The mean share of the whole model's work of rows that leave at `place`, with that of the cuts that they
    come to."""
    cuts = np.cumsum([*(least is not None for least in thresholds), False])
    return float((work + CUT * cuts)[place].mean())


def _proposed(
    scores: np.ndarray, excess: np.ndarray, work: np.ndarray, max_drop: float
) -> list[tuple[float | None, ...]]:
    """Sets of thresholds, the least risky first: from each exit on, and with each share of what is allowed,
    exits left out whose cuts take more than they save.

    A set's risk is the mean of what it loses and twice that mean's standard error.
    """
    risks: dict[tuple[float | None, ...], float] = {}
    rows = np.arange(scores.shape[1])
    for lax in LAX:
        each = [
            _threshold(score, lost, lax * max_drop) for score, lost in zip(scores, excess[:-1], strict=True)
        ]
        for first in range(len(each)):
            tried = _worthwhile(scores, (*[None] * first, *each[first:]), work)
            if any(least is not None for least in tried):
                lost = excess[leaving(scores, tried), rows]
                risks[tried] = float(lost.mean() + 2 * lost.std() / max(len(rows), 1) ** 0.5)
    return sorted(risks, key=lambda tried: risks[tried])


def _worthwhile(
    scores: np.ndarray, thresholds: tuple[float | None, ...], work: np.ndarray
) -> tuple[float | None, ...]:
    """These thresholds without those that save too little, one after another."""
    while True:
        fewer = [
            (*thresholds[:place], None, *thresholds[place + 1 :])
            for place, least in enumerate(thresholds)
            if least is not None
        ]
        best = min((*fewer, thresholds), key=lambda tried: _cost(leaving(scores, tried), tried, work))
        if best == thresholds:
            return thresholds
        thresholds = best


def _threshold(scores: np.ndarray, excess: np.ndarray, allowed: float) -> float | None:
    """The least score at which those above it lose no more than `allowed` in the mean."""
    known = np.isfinite(scores)
    scores, excess = scores[known], excess[known]
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    mean = np.cumsum(excess[order]) / np.arange(1, len(order) + 1)
    whole = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]  # equal scores leave together
    places = np.flatnonzero(whole & (mean <= allowed + 1e-12))
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
