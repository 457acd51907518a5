"""Which trial is chosen: what fits, then what is fastest, then what is smallest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from openglm.bundle.manifest import Candidate, Quality
from openglm.search.result import Result, choose
from openglm.search.trial import Trial


def trial(
    name: str, speedup: float, size: int, fits: bool = True, outcome: Any = "accepted", **more: Any
) -> Trial:
    """A made-up trial; `over` is by what factor it misses its worst limit."""
    over = more.get("over", 1.0)
    limits = [SimpleNamespace(predicted=10.0, budget=None), SimpleNamespace(predicted=over, budget=1.0)]
    candidate = Candidate(
        code=name, recipe=(), outcome=outcome, reason="made up", speedup=speedup, size_bytes=size, fits=fits,
        quality=Quality(metric="fidelity", value=more.get("quality", 1.0), samples=1),
    )  # fmt: skip
    return Trial(candidate, (), verdict=SimpleNamespace(limits=limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trials", "chosen"),
    [
        # What fits goes before what is faster.
        ([trial("slow", 1.0, 10), trial("fast", 9.0, 5, fits=False, over=2)], "slow"),
        # Among what fits, the fastest.
        ([trial("a", 1.0, 1), trial("b", 2.0, 10), trial("c", 1.5, 5)], "b"),
        # Within noise of the fastest, the smallest.
        ([trial("a", 2.0, 10), trial("b", 1.95, 5), trial("c", 1.8, 1)], "b"),
        # Equally fast and equally small: what loses least.
        ([trial("a", 2.0, 1000, quality=0.8), trial("b", 1.95, 1010, quality=0.9)], "b"),
        # And where both lose the same, the one that the other does not beat.
        ([trial("a", 1.95, 1010), trial("b", 2.0, 1000), trial("c", 2.0, 1005)], "b"),
        # Nothing fits: the least violation, and of those about equal, the fastest.
        ([trial("a", 9.0, 1, False, over=3), trial("b", 1.0, 9, False, over=2)], "b"),
        ([trial("a", 1.0, 9, False, over=2), trial("b", 3.0, 9, False, over=2.05)], "b"),
        # What was refused or failed is not asked.
        (
            [trial("a", 1.0, 9), trial("b", 9.0, 1, outcome="refused"), trial("c", 9.0, 1, outcome="failed")],
            "a",
        ),
        # The order they were tried in does not matter.
        ([trial("c", 1.8, 1), trial("b", 1.95, 5), trial("a", 2.0, 10)], "b"),
    ],
)
def test_choice(trials: list[Trial], chosen: str) -> None:
    assert choose(trials).candidate.code == chosen
    assert choose(trials[::-1]).candidate.code == chosen


def test_front() -> None:
    trials = [
        trial("a", 1.0, 10),
        trial("small", 1.0, 5),
        trial("fast", 2.0, 8, quality=0.9),
        trial("bad", 0.9, 10),
    ]
    result = Result(None, trials)  # type: ignore[arg-type]
    assert [item.candidate.code for item in result.front] == ["small", "fast"]
    assert "chosen    fast: made up" in result.explain().splitlines()
