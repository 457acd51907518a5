"""Matthews' correlation against its definitions: of a confusion matrix, and of 0-1 variables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve

stats = pytest.importorskip(
    "scipy.stats", reason="scipy has the correlation that this one is, of two classes"
)


def matthews(predicted: Any, labels: Any, classes: int = 2) -> Score:
    output = np.eye(classes, dtype=np.float32)[np.asarray(predicted)]
    return resolve("matthews").score(Evaluation({"logits": output}, labels=np.asarray(labels)))


two = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=40)
four = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40)


@given(two)
@settings(max_examples=300, deadline=None)
def test_two_classes(points: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(points).T
    count = {
        (answer, label): int(np.sum((predicted == answer) & (labels == label)))
        for answer in (0, 1)
        for label in (0, 1)
    }
    tp, tn, fp, fn = count[1, 1], count[0, 0], count[1, 0], count[0, 1]
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    score = matthews(predicted, labels)
    if below:
        assert score.value == pytest.approx((tp * tn - fp * fn) / math.sqrt(below), abs=1e-12)
        assert score.value == pytest.approx(stats.pearsonr(predicted, labels).statistic, abs=1e-9)
    else:
        assert (score.value, score.details["constant"]) == (0, 1)


@given(four)
@settings(max_examples=200, deadline=None)
def test_more_classes(points: list[tuple[int, int]]) -> None:
    """Gorodkin's covariances of indicator variables, summed over the classes."""
    predicted, labels = np.array(points).T
    x, y = (np.eye(4)[values] - np.eye(4)[values].mean(0) for values in (predicted, labels))
    below = math.sqrt(float((x * x).sum() * (y * y).sum()))
    expected = float((x * y).sum()) / below if below > 1e-12 else 0.0
    assert matthews(predicted, labels, 4).value == pytest.approx(expected, abs=1e-9)


def test_always_the_same_answer_is_worth_nothing() -> None:
    assert matthews([1, 1, 1, 1], [1, 1, 1, 0]).value == 0
    assert matthews([1, 1, 0, 0], [1, 1, 1, 1]).details["one_class"] == 1


def test_what_is_not_finite_is_wrong() -> None:
    output = np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, 0.0]])
    score = resolve("matthews").score(Evaluation({"y": output}, labels=np.array([1, 0, 0])))
    assert score.value == pytest.approx(matthews([1, 0, 1], [1, 0, 0]).value)
    assert score.details["non_finite"] == pytest.approx(1 / 3)


def test_labels_that_are_none() -> None:
    with pytest.raises(InputError, match="label 2 is none"):
        matthews([0, 1], [0, 2])
