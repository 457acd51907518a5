"""What the time of a search goes into: training, measuring, waiting and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

KINDS = ("pruning", "training", "exporting", "quantizing", "calibrating", "judging", "measuring", "waiting")


class Clock:
    """Adds up seconds by kind; a kind that is timed inside another is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Count what runs in the context as `kind`."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - start
            own = took - self._inner.pop()
            self._inner[-1] += took
            self.seconds[kind] = self.seconds.get(kind, 0.0) + own

    def rounded(self) -> dict[str, float]:
        """Seconds by kind, in the order of `KINDS`."""
        return {kind: round(self.seconds[kind], 2) for kind in KINDS if kind in self.seconds}


def total(parts: Mapping[str, float]) -> float:
    """All seconds together."""
    return round(sum(parts.values()), 2)
