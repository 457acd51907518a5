"""Accuracy against its definition, with labels as users have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.5]])


def accuracy(output: Any, labels: Any, **options: Any) -> Score:
    return resolve("accuracy").score(Evaluation({"logits": output}, labels=np.asarray(labels), **options))


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2, 2],
        [0.0, 1.0, 2.0, 2.0],
        ["0", "1", "2", "2"],
        ["ant", "bee", "cat", "cat"],
        np.array([0, 1, 2, 2], dtype=object),
    ],
)
def test_labels_as_numbers_or_names(labels: Any) -> None:
    assert accuracy(LOGITS, labels) == Score(0.75, {"samples": 4, "majority": 0.5})


def test_names_in_the_models_order() -> None:
    assert accuracy(LOGITS, ["C", "b", "a", "a"], classes=("c", "B", "a")).value == 0.75
    with pytest.raises(InputError, match="'d' is none"):
        accuracy(LOGITS, ["c", "b", "a", "d"], classes=("c", "b", "a"))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_logit_decides_at_zero(shape: tuple[int, ...]) -> None:
    output = np.array([1.5, -0.2, 0.0, -3.0]).reshape(shape)
    assert accuracy(output, [1, 0, 1, 0]).value == 0.75
    assert accuracy(output, ["yes", "no", "yes", "no"]).value == 0.75


def test_one_class_says_so() -> None:
    assert accuracy(LOGITS, [0, 0, 0, 0]).details == {"samples": 4, "majority": 1, "one_class": 1}


def test_what_is_not_finite_is_wrong() -> None:
    broken = LOGITS.copy()
    broken[1, 1] = np.nan
    score = accuracy(broken, [0, 1, 2, 0])
    assert (score.value, score.details["non_finite"]) == (0.75, 0.25)


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (LOGITS, [0, 1, 2, 3], "label 3 is none"),
        (LOGITS, [0, 1, 2, -1], "label -1 is none"),
        (LOGITS, [0, 1, 2, 0.5], "label 0.5 is none"),
        (LOGITS, ["a", "b", "a", "b"], "2 names"),
        (LOGITS, [0, 1], "for 4 samples"),
        (LOGITS, None, "needs labels"),
        (np.zeros((4, 2, 3)), [0, 1, 0, 1], "output of shape"),
        (np.zeros((0, 3)), [], "no outputs"),
        ([np.zeros(2), np.zeros(3)], [0, 1], "differs between samples"),
    ],
)
def test_what_cannot_be_judged(output: Any, labels: Any, message: str) -> None:
    evaluation = Evaluation({"y": output}, labels=None if labels is None else np.asarray(labels))
    with pytest.raises(InputError, match=message):
        resolve("accuracy").score(evaluation)
