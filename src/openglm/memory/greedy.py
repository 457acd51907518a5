"""Greedy planners: buffers in some order, each into a gap between those that are placed and alive with it.

`by_size` is what TensorFlow Lite does (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020): the largest first, into the smallest gap that holds it. `best` tries several orders and
both choices of gap and takes what ends lowest, so that there is always a plan at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from openglm.memory.problem import Span, conflicts, lower_bound, top

Key = Callable[[Span], float]

ORDERS: tuple[Key, ...] = (
    lambda span: -span.size,
    lambda span: span.start - span.end,
    lambda span: span.size * (span.start - span.end),
    lambda span: span.start,
    lambda span: -span.end,
)
"""Largest, longest, largest area, first and last."""


def by_size(spans: Sequence[Span]) -> list[int]:
    """TensorFlow Lite's plan: an offset for each buffer."""
    return _place(spans, sorted(range(len(spans)), key=lambda i: -spans[i].size), conflicts(spans), True)


def best(spans: Sequence[Span]) -> list[int]:
    """The lowest of the plans that the orders and gaps give; ends early at the lower bound."""
    beside, least = conflicts(spans), lower_bound(spans)
    found: list[int] | None = None
    for key in ORDERS:
        order = sorted(range(len(spans)), key=lambda i, key=key: key(spans[i]))  # type: ignore[misc]
        for smallest in (True, False):
            offsets = _place(spans, order, beside, smallest)
            if found is None or top(spans, offsets) < top(spans, found):
                found = offsets
            if top(spans, found) == least:
                return found
    assert found is not None
    return found


def _place(
    spans: Sequence[Span], order: Iterable[int], beside: Sequence[np.ndarray], smallest: bool
) -> list[int]:
    """Place buffers in order: into the smallest gap that holds each, or else the lowest."""
    offsets = [-1] * len(spans)
    for index in order:
        size = spans[index].size
        placed = sorted(
            (offsets[other], offsets[other] + spans[other].size)
            for other in beside[index].tolist()
            if offsets[other] >= 0
        )
        floor, chosen, room = 0, -1, 0
        for low, high in placed:
            if low - floor >= size and (chosen < 0 or low - floor < room):
                chosen, room = floor, low - floor
                if not smallest:
                    break
            floor = max(floor, high)
        offsets[index] = chosen if chosen >= 0 else floor
    return offsets
