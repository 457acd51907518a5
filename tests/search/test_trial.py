"""How a candidate's speed is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from openglm.search import trial


@pytest.mark.parametrize(
    ("expected", "measured", "rounds"),
    [
        (None, [2.0], 5),
        (2.1, [2.0], 5),
        (3.0, [2.0, 3.1, 3.1], 15),
        (1.0, [2.0, 2.0, 2.0, 2.0], 15),
        (2.0, [3.0, 2.0], 15),
    ],
)
def test_a_speed_that_is_unlike_the_expected_is_looked_at_again(
    expected: float | None, measured: list[float], rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(measured + measured[-1:] * 3)

    def interleaved(calls: Mapping[str, Any], **_: Any) -> dict[str, np.ndarray]:
        faster = next(left)
        return {"original": np.full(5, faster), "candidate": np.ones(5)}

    monkeypatch.setattr(trial.measure, "interleaved", interleaved)
    calls = {"original": lambda: None, "candidate": lambda: None}
    times = trial._times(calls, 5, 1.0, expected)
    assert {len(found) for found in times.values()} == {rounds}
