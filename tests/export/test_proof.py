"""How far answers are from others, by definition."""

from __future__ import annotations

import numpy as np
import pytest

from openglm.export.proof import coarser, prove

ROWS = [{"y": np.float32([[1, -4], [2, 0]])}, {"y": np.float32([[3, 3]])}]


def test_equal_answers_are_not_apart() -> None:
    found = prove(ROWS, ROWS)
    assert found == (0.0, 0.0, pytest.approx(1.0))
    assert found.within("fp32")


def test_differences_are_shares_of_the_largest_answer() -> None:
    other = [{"y": ROWS[0]["y"] + np.float32([[0, 0], [0, 1]])}, ROWS[1]]
    found = prove(other, ROWS)
    assert found.difference == pytest.approx(1 / 4)
    assert found.mean_difference == pytest.approx(1 / 4 / 6)
    one, two = (np.concatenate([row["y"].ravel() for row in rows]) for rows in (other, ROWS))
    assert found.cosine == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert not found.within("fp16")


@pytest.mark.parametrize(
    "other",
    [
        [{"y": np.float32([[1, -4]])}, ROWS[1]],
        [{"z": ROWS[0]["y"]}, ROWS[1]],
        [{"y": np.float32([[1, np.nan], [2, 0]])}, ROWS[1]],
        [{"y": np.float32([[1, np.inf], [2, 0]])}, ROWS[1]],
    ],
)
def test_other_shapes_and_what_is_no_number_is_infinitely_far(other: list[dict[str, np.ndarray]]) -> None:
    found = prove(other, ROWS)
    assert found.difference == np.inf
    assert not found.within("int4")


def test_the_same_infinity_is_no_difference() -> None:
    rows = [{"y": np.float32([[np.inf, 1]])}]
    assert prove(rows, rows).difference == 0


def test_the_worst_output_counts() -> None:
    rows = [{"a": np.float32([1.0, 2.0]), "b": np.float32([1.0, 1.0])}]
    other = [{"a": np.float32([1.0, 2.0]), "b": np.float32([1.0, -1.0])}]
    found = prove(other, rows)
    assert found.difference == 2
    assert found.cosine == pytest.approx(0)


def test_the_coarser_of_two() -> None:
    assert coarser("fp16", "int8") == "int8"
    assert coarser("int4", "fp32") == "int4"
