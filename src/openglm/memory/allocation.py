"""From buffers to addresses: greedy first, so that there is a plan at once, then the search until it is
proven lowest, small enough, or out of time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from openglm.memory import greedy
from openglm.memory.exact import Infeasible, Search
from openglm.memory.problem import Span, independent, lower_bound, top


@dataclass(frozen=True)
class Allocation:
    """An address for each buffer."""

    offsets: tuple[int, ...]
    top: int
    """Units that the buffers need so."""
    least: int
    """Units that any plan needs, as far as it is proven."""

    @property
    def optimal(self) -> bool:
        """Whether no plan needs less."""
        return self.top == self.least


def allocate(
    spans: Sequence[Span], *, seconds: float = 10.0, enough: int | None = None, seed: int = 0
) -> Allocation:
    """The lowest plan that is found within `seconds`; with `enough` the first that needs no more.

    Buffers that live for no time, or have no size, are at 0.
    """
    until = time.monotonic() + seconds
    real = [index for index, span in enumerate(spans) if span.size > 0 and span.end > span.start]
    offsets = [0] * len(spans)
    if not real:
        return Allocation(tuple(offsets), 0, 0)
    unit = gcd(*(spans[index].size for index in real))
    scaled = [Span(spans[i].start, spans[i].end, spans[i].size // unit) for i in real]
    found = greedy.best(scaled)
    least = lower_bound(scaled)
    proven, aim = least, max(least, (enough or 0) // unit)
    groups = [group for group in independent(scaled) if _top(scaled, found, group) > aim]
    for done, group in enumerate(groups):
        share = (until - time.monotonic()) / (len(groups) - done)
        placed, known = _lower([scaled[i] for i in group], [found[i] for i in group], aim, share, seed)
        proven = max(proven, known)
        for index, offset in zip(group, placed, strict=True):
            found[index] = offset
    for index, offset in zip(real, found, strict=True):
        offsets[index] = offset * unit
    return Allocation(tuple(offsets), top(scaled, found) * unit, proven * unit)


def _top(spans: Sequence[Span], offsets: Sequence[int], group: Sequence[int]) -> int:
    return max(offsets[index] + spans[index].size for index in group)


def _lower(
    spans: Sequence[Span], found: list[int], aim: int, seconds: float, seed: int
) -> tuple[list[int], int]:
    """A plan of one group nearer to `aim`, and what any plan of it needs, as far as it is proven.

    The aim itself is tried for half of the time, then what lies half way between it and the best plan.
    """
    until = time.monotonic() + seconds
    search = Search(spans, seed)
    proven, low, high = lower_bound(spans), aim, top(spans, found)
    target = aim
    while low < high and (left := until - time.monotonic()) > 0:
        try:
            better = search.within(target, left / 2)
        except Infeasible:
            proven = max(proven, target + 1)
            better = None
        if better is None:
            low = target + 1
        else:
            found, high = better, top(spans, better)
        target = (low + high) // 2
    return found, proven
