"""Scales of plots: from values to positions, and the round values to write beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SPAN = 1e-4
"""A scale spans at least this share of its values, so that equal ones do not divide by nothing."""


MOST = 1e15
"""Beyond it a value is a fault, and distances between such may not be numbers."""


def drawable(value: float) -> bool:
    """Whether a value has a place in a plot."""
    return math.isfinite(value) and abs(value) < MOST


@dataclass(frozen=True)
class Scale:
    """Linear from [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if not drawable(value):
            return self.start
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def around(values: Sequence[float], start: float, end: float, *, pad: float = 0.12) -> Scale:
    """A scale that holds all of `values` with some room about them."""
    known = [value for value in values if drawable(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    span = max(high - low, LEAST_SPAN * max(abs(low), abs(high), 1.0))
    middle = (low + high) / 2
    half = span * (0.5 + pad)
    return Scale(middle - half, middle + half, start, end)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values within [low, high], `most` at the most, or one."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / max(most, 1)))
    for step in (power * factor for factor in (1, 2, 5, 10, 20)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 0 < last - first + 1 <= most:
            return [index * step for index in range(first, last + 1)]
    return [low]


def labels(values: Sequence[float]) -> list[str]:
    """The ticks as text, each with as many decimals as their distance needs."""
    if len(values) < 2:
        return [f"{value:.4g}" for value in values]
    step = values[1] - values[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{decimals}f}".replace("-", "−") for value in values]
