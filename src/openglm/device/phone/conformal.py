"""Intervals that hold as often as they say: quantiles of the errors on models that took no part in the fit.

Cross-conformal prediction (Vovk, "Cross-conformal predictors", 2015): the data is split into folds of whole
groups of models, each fold is predicted from the others, and quantiles of log(measured / predicted) over
all folds, corrected for their number, bound the error of a new model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from openglm.device.phone.coefficients import Interval
from openglm.device.phone.refit import Design, Row, bagged

FOLDS = 10
COVERAGE = 0.9
ENOUGH = 15
"""A runtime and scheme with fewer groups of models takes the quantiles of all runtimes."""


def folds(groups: Sequence[str], count: int = FOLDS, seed: int = 0) -> Iterator[np.ndarray]:
    """Masks of the rows to test, whole groups together."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    of = {names[index]: place % count for place, index in enumerate(order)}
    fold = np.array([of[group] for group in groups])
    for index in range(min(count, len(names))):
        yield fold == index


def cross_validated(rows: Sequence[Row], groups: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """Log milliseconds of each row, from a fit to the other folds."""
    design = Design(rows)
    predicted = np.zeros(len(rows))
    for test in folds(groups, count):
        kept = np.flatnonzero(~test).tolist()
        fitted = bagged([rows[index] for index in kept], [groups[index] for index in kept], design)
        predicted[test] = fitted.predict([row for row, out in zip(rows, test, strict=True) if out])
    return predicted


def intervals(
    rows: Sequence[Row], groups: Sequence[str], errors: np.ndarray
) -> dict[str, dict[str, Interval]]:
    """By runtime and scheme; `errors` are log(measured / predicted)."""
    cells: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        cells.setdefault((row.runtime, row.scheme), []).append(index)
    made: dict[str, dict[str, Interval]] = {}
    for (runtime, scheme), own in cells.items():
        if len({groups[index] for index in own}) < ENOUGH:
            own = [index for index, row in enumerate(rows) if row.scheme == scheme]
        made.setdefault(runtime, {})[scheme] = interval([groups[index] for index in own], errors[own])
    return made


def interval(groups: Sequence[str], errors: np.ndarray, coverage: float = COVERAGE) -> Interval:
    """The shortest interval that holds `coverage` of the errors, every group counting the same.

    Shortest rather than with equal tails, because errors are lopsided: what goes wrong makes a model slower.
    """
    sizes = Counter(groups)
    count = len(sizes)
    order = np.argsort(errors)
    ordered = errors[order]
    weights = np.array([1 / (count * sizes[groups[index]]) for index in order])
    share = np.cumsum(weights) - weights / 2
    # With n groups, what holds for n + 1 is the quantile (n + 1) / n times as far out.
    wanted = min(coverage * (count + 1) / count, 1.0)
    tails = np.linspace(0, 1 - wanted, 41)
    lows, highs = np.interp(tails, share, ordered), np.interp(tails + wanted, share, ordered)
    best = int(np.argmin(highs - lows))
    return Interval(float(lows[best]), float(highs[best]), count)
