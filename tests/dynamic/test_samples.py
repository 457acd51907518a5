"""What gates are settled by."""

from __future__ import annotations

import numpy as np
import pytest

from openglm.dynamic.samples import Samples
from openglm.errors import InputError


def test_batches_come_row_by_row() -> None:
    batch = {"x": np.arange(6.0).reshape(3, 2), "y": np.arange(3)}
    samples = Samples.of([(batch, 1.0), ({"x": np.zeros((1, 2)), "y": np.ones(1)}, 0.0)])
    assert samples.labels == [1.0, 1.0, 1.0, 0.0]
    np.testing.assert_array_equal(np.concatenate([row["x"] for row in samples.inputs[:3]]), batch["x"])
    half = samples.of_rows(np.array([0, 2]))
    assert half.labels == [1.0, 1.0]
    np.testing.assert_array_equal(half.inputs[1]["y"], [2])


@pytest.mark.parametrize(
    ("labels", "words"),
    [([1.0, 0.0], "accuracy"), ([1.5, 2.0], "labels' range"), ([None, 1.0], "agreement")],
)
def test_what_a_loss_is_of(labels: list[float | None], words: str) -> None:
    assert words in Samples([{}] * len(labels), labels).judged


def test_losses_of_classes_and_of_numbers() -> None:
    end = np.array([[0.0, 1.0], [1.0, 0.0]])
    answers = np.array([[[2.0, 0.0], [3.0, 0.0]]])
    np.testing.assert_array_equal(Samples([{}] * 2, [1.0, 1.0]).losses(answers, end), [[1, 1]])
    three = np.array([[[2.0, 0.0, 0.0], [3.0, 0.0, 1.0]]])
    unlabelled = Samples([{}] * 2, [None, None])
    np.testing.assert_array_equal(unlabelled.losses(three, np.eye(3)[[1, 0]]), [[1, 0]])
    second = 1 / (1 + np.exp([1.0, 3.0]))
    np.testing.assert_allclose(unlabelled.losses(answers, end), [[1, second[0] - second[1]]])
    numbers = np.array([[[1.0], [np.nan]]])
    found = Samples([{}] * 2, [0.0, 4.0]).losses(numbers, numbers[0])
    np.testing.assert_array_equal(found, [[0.25, 1.0]])


def test_a_label_may_be_a_probability() -> None:
    end = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [np.nan, 0.0]])
    labels: list[float | None] = [1.0, 0.25, 0.8, 0.5]
    found = Samples([{}] * 4, labels).losses(np.stack([end, end[:, ::-1]]), end)
    second = 1 / (1 + np.exp([1.0, -1.0]))
    expected = [[0, abs(second[0] - 0.25), 0.3, 1], [1, abs(second[1] - 0.25), 0.3, 1]]
    np.testing.assert_allclose(found, expected)
    three = Samples([{}] * 4, labels).losses(np.eye(4, 3)[None], np.eye(4, 3))
    np.testing.assert_array_equal(three, [[1, 1, 1, 1]])


def test_none_at_all() -> None:
    with pytest.raises(InputError, match="no sample to set gates on"):
        Samples.of([])
