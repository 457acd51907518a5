"""Spearman's correlation against scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve
from openglm.metrics.spearman import ranks

stats = pytest.importorskip("scipy.stats", reason="scipy is what ranks are compared with")


def spearman(output: Any, labels: Any, pairs: bool = False) -> Score:
    return resolve("spearman").score(
        Evaluation({"y": np.asarray(output)}, labels=np.asarray(labels), pairs=pairs)
    )


few = st.integers(0, 4).map(float)
many = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(few | many, few | many), min_size=2, max_size=40))
@settings(max_examples=300, deadline=None)
def test_as_scipy_with_ties(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    np.testing.assert_array_equal(ranks(x), stats.rankdata(x))
    score = spearman(x[:, None], y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert score == Score(0.0, {"samples": len(x), "constant": 1.0})
    else:
        assert score.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_pairs_by_cosine() -> None:
    generator = np.random.default_rng(0)
    output = generator.standard_normal((30, 2, 8)).astype(np.float32)
    labels = [f"{value:.3f}" for value in generator.uniform(0, 5, 30)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in output.astype(float)]
    expected = stats.spearmanr(cosines, np.array(labels, float)).statistic
    assert spearman(output, labels, pairs=True).value == pytest.approx(expected, abs=1e-9)


def test_a_zero_embedding_has_no_direction() -> None:
    output = np.array([[[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    assert spearman(output, [0, 5], pairs=True).value == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_scores_zero(bad: float) -> None:
    assert spearman([1, bad, 2], [1, 2, 3]) == Score(0.0, {"samples": 3, "non_finite": pytest.approx(1 / 3)})
    pair = np.ones((2, 2, 3))
    pair[0, 0, 0] = bad
    assert spearman(pair, [1, 2], pairs=True).details["non_finite"] == 0.5


@pytest.mark.parametrize(
    ("output", "labels", "pairs", "message"),
    [
        ([1, 2], ["a", "b"], False, "labels that are numbers"),
        ([1, 2], [1, np.nan], False, "NaN"),
        ([1, 2], [1, 2, 3], False, "for 2 samples"),
        (np.zeros((3, 4)), [1, 2, 3], False, r"\[samples, 1\]"),
        (np.zeros((3, 4)), [1, 2, 3], True, r"\[samples, 2, width\]"),
    ],
)
def test_what_cannot_be_judged(output: Any, labels: Any, pairs: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        spearman(output, labels, pairs)
