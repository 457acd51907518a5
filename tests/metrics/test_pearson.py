"""Pearson's correlation against scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve

stats = pytest.importorskip("scipy.stats", reason="scipy is what correlations are compared with")


def pearson(output: Any, labels: Any, pairs: bool = False) -> Score:
    return resolve("pearson").score(
        Evaluation({"y": np.asarray(output)}, labels=np.asarray(labels), pairs=pairs)
    )


values = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=3, max_size=40)


@given(values)
@settings(max_examples=300, deadline=None)
def test_as_scipy(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points).T
    # Values that are all but equal leave no digits to compare.
    assume(min(x.std(), y.std()) > 1e-3)
    assert pearson(x[:, None], y).value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_scale_and_offset_do_not_matter(scale: float) -> None:
    labels = np.array([0.0, 1.0, 2.5, 5.0])
    assert pearson(scale * labels, labels).value == pytest.approx(1)
    assert pearson(3 - 2 * labels, labels).value == pytest.approx(-1)


def test_constants_correlate_with_nothing() -> None:
    assert pearson([0.1, 0.1, 0.1], [1, 2, 3]) == Score(0.0, {"samples": 3, "constant": 1.0})
    assert pearson([1, 2, 3], [0.0, 0.0, 0.0]).details["constant"] == 1


def test_pairs_by_cosine() -> None:
    output = np.random.default_rng(0).standard_normal((30, 2, 8))
    labels = np.random.default_rng(1).uniform(0, 5, 30)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in output]
    expected = stats.pearsonr(cosines, labels).statistic
    assert pearson(output, labels, pairs=True).value == pytest.approx(expected, abs=1e-9)


def test_what_is_not_finite_scores_zero() -> None:
    assert pearson([1, np.nan, 2], [1, 2, 3]) == Score(
        0.0, {"samples": 3, "non_finite": pytest.approx(1 / 3)}
    )


def test_labels_that_are_none() -> None:
    with pytest.raises(InputError, match="Pearson needs labels that are numbers"):
        pearson([1, 2], ["a", "b"])
