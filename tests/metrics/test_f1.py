"""F1 against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve


def f1(predicted: Any, labels: Any) -> Score:
    output = np.eye(2, dtype=np.float32)[np.asarray(predicted)]
    return resolve("f1").score(Evaluation({"logits": output}, labels=np.asarray(labels)))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
@settings(max_examples=300, deadline=None)
def test_the_harmonic_mean_of_precision_and_recall(points: list[tuple[int, int]]) -> None:
    right = sum(answer == label == 1 for answer, label in points)
    answers, labels = (sum(column) for column in zip(*points, strict=True))
    score = f1(*np.array(points).T)
    if right:
        precision, recall = right / answers, right / labels
        assert score.value == pytest.approx(2 / (1 / precision + 1 / recall))
        assert score.details["precision"] == pytest.approx(precision)
        assert score.details["recall"] == pytest.approx(recall)
    else:
        assert score.value == 0


def test_one_logit() -> None:
    evaluation = Evaluation({"y": np.array([2.0, -1.0, 3.0])}, labels=np.array(["yes", "no", "no"]))
    assert resolve("f1").score(evaluation).value == pytest.approx(2 / 3)


def test_what_is_not_finite_is_wrong() -> None:
    output = np.array([[0.0, 1.0], [np.nan, 0.0]])
    score = resolve("f1").score(Evaluation({"y": output}, labels=np.array([1, 0])))
    assert (score.value, score.details["non_finite"]) == (pytest.approx(2 / 3), 0.5)


def test_more_than_two_classes() -> None:
    with pytest.raises(InputError, match="one class among two, and the model has 3"):
        resolve("f1").score(Evaluation({"y": np.eye(3)}, labels=np.arange(3)))
