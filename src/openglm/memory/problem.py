"""The problem that planners solve: buffers with lifetimes and sizes, and an address for each.

It is dynamic storage allocation: rectangles of fixed place in time are stacked so that none overlap and
the top is low. Finding the lowest is NP-hard (Garey and Johnson, 1979, SR2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """A buffer: alive in [start, end) of time, `size` units long."""

    start: int
    end: int
    size: int


def lower_bound(spans: Sequence[Span]) -> int:
    """The most units alive at any time: no plan can do with less."""
    change: dict[int, int] = {}
    for start, end, size in spans:
        change[start] = change.get(start, 0) + size
        change[end] = change.get(end, 0) - size
    alive = most = 0
    for time in sorted(change):
        alive += change[time]
        most = max(most, alive)
    return most


def top(spans: Sequence[Span], offsets: Sequence[int]) -> int:
    """The units that a plan needs."""
    return max((offset + span.size for span, offset in zip(spans, offsets, strict=True)), default=0)


def conflicts(spans: Sequence[Span]) -> list[np.ndarray]:
    """For each buffer, the others that are alive at some time with it."""
    starts, ends = (np.array([span[i] for span in spans], np.int64) for i in (0, 1))
    found = []
    for index, (start, end, _) in enumerate(spans):
        together = (starts < end) & (start < ends)
        together[index] = False
        found.append(np.flatnonzero(together))
    return found


def overlap(spans: Sequence[Span], offsets: Sequence[int]) -> tuple[int, int] | None:
    """Two buffers that are alive together and share a unit, where a plan has such."""
    order = sorted(range(len(spans)), key=lambda index: spans[index].start)
    alive: list[int] = []
    for index in order:
        start, end, size = spans[index]
        alive = [other for other in alive if spans[other].end > start]
        for other in alive:
            apart = (
                offsets[other] >= offsets[index] + size
                or offsets[index] >= offsets[other] + spans[other].size
            )
            if not apart and size and spans[other].size and end > start:
                return other, index
        alive.append(index)
    return None


def independent(spans: Sequence[Span]) -> list[list[int]]:
    """The buffers in groups that share no time, each of which can be planned by itself."""
    groups: list[list[int]] = []
    reach = None
    for index in sorted(range(len(spans)), key=lambda index: spans[index].start):
        if reach is None or spans[index].start >= reach:
            groups.append([])
            reach = spans[index].end
        groups[-1].append(index)
        reach = max(reach, spans[index].end)
    return groups
