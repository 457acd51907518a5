"""The sentences: what was done, and what it cost."""

from __future__ import annotations

from typing import Any

import pytest

from openglm.bundle.manifest import Figures, Quality
from openglm.report import story
from openglm.report.page import render


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((10.0, 100), (10.0, 50), ": 50 % smaller,"),
        ((10.0, 100), (20.0, 100), ": 2.0× slower where it was measured,"),
        ((10.0, 100), (10.1, 100), ": rebuilt, no faster and no smaller,"),
        ((10.0, 100), (5.0, 150), ": 50 % larger, 2.0× faster where it was measured,"),
        ((0.0, 0), (0.0, 0), ": rebuilt, no faster and no smaller,"),
    ],
)
def test_the_headline_follows_the_figures(
    make: Any, before: tuple[float, int], after: tuple[float, int], said: str
) -> None:
    def figures(ms: float, size: int) -> Figures:
        return Figures(
            size_bytes=size,
            timing=make.timing(ms),
            load_ms=None,
            peak_memory_mb=None,
            quality=make.quality(1),
        )

    speedup = before[0] / after[0] if after[0] else 1.0
    manifest = make.sample(before=figures(*before), after=figures(*after), speedup=speedup)
    assert said in story.headline(manifest).replace("\u202f", " ")
    assert "with no loss of fidelity" in story.headline(manifest)
    render(manifest)


def test_a_loss_goes_the_way_that_the_metric_does() -> None:
    def by(metric: str, value: float, higher: bool) -> Quality:
        return Quality(metric=metric, value=value, samples=10, higher_is_better=higher)

    better = story.loss(by("accuracy", 0.8, True), by("accuracy", 0.81, True))
    assert better == "with 0.01 better accuracy"
    worse = story.loss(by("my:perplexity", 12.0, False), by("my:perplexity", 12.5, False))
    assert worse == "at a loss of 0.5 my:perplexity"
