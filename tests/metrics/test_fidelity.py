"""Fidelity against its definition, and where it must not be fooled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, resolve

RNG = np.random.default_rng(0)


def fidelity(outputs: Any, reference: Any, task: str = "generic", **options: Any) -> Score:
    as_arrays = [value if isinstance(value, dict) else {"y": value} for value in (outputs, reference)]
    return resolve("fidelity").score(Evaluation(as_arrays[0], as_arrays[1], task=task, **options))


def test_the_mean_cosine() -> None:
    old, new = RNG.standard_normal((2, 20, 3, 4)).astype(np.float32) + 1
    cosines = [
        a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(new, old, strict=True)
    ]
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(new, old, strict=True)]
    score = fidelity(new, old)
    assert score.value == pytest.approx(np.mean(cosines), abs=1e-6)
    assert score.details == pytest.approx(
        {"cosine": np.mean(cosines), "relative_error": np.mean(errors)}, abs=1e-6
    )


@pytest.mark.parametrize("task", ["generic", "embedding", "classification", "image-classification"])
@given(
    rows=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e3, 1e3, width=32)
    )
)
@settings(max_examples=60, deadline=None)
def test_unchanged_outputs_score_one(task: str, rows: np.ndarray) -> None:
    assert fidelity(rows.copy(), rows, task).value == 1


@pytest.mark.parametrize("task", ["generic", "embedding", "classification"])
@given(seed=st.integers(0, 10_000), scale=st.floats(-10, 10))
@settings(max_examples=60, deadline=None)
def test_the_value_stays_between_zero_and_one(task: str, seed: int, scale: float) -> None:
    old, noise = np.random.default_rng(seed).standard_normal((2, 9, 4))
    assert 0 <= fidelity(scale * old + noise, old, task).value <= 1


def test_zero_vectors() -> None:
    old = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    new = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert fidelity(new, old).value == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_scores_zero(bad: float) -> None:
    new = np.ones((4, 3))
    new[1, 2] = bad
    assert fidelity(new, np.ones((4, 3)), "embedding") == Score(0.0, {"non_finite": 0.25})
    with pytest.raises(InputError, match="original model gives NaN"):
        fidelity(np.ones((4, 3)), new)


def test_one_number_is_compared_with_the_scale_of_all() -> None:
    old = np.array([[3.0], [-4.0]])
    scale = np.sqrt(12.5)
    assert fidelity(old + 0.5, old).value == pytest.approx(1 - 0.5 / scale)
    assert fidelity(-old, old).value == 0
    assert fidelity(np.array([1.0, 0.0]), np.zeros(2)).value == 0.5


def test_integers_and_several_outputs_by_the_worst() -> None:
    ids = np.array([[1, 2, 3, 4]])
    old = {"a": np.ones((1, 3)), "ids": ids}
    assert fidelity({"a": np.ones((1, 3)), "ids": ids + (ids == 4)}, old).value == 0.75


def test_lengths_that_vary() -> None:
    old = [np.ones((2, 3)), np.ones((5, 3))]
    assert fidelity([np.ones((2, 3)), np.ones((5, 3))], old).value == 1
    assert fidelity([np.ones((2, 3)), np.ones((4, 3))], old).value == 0.5


def nearest(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = unit @ unit.T
    np.fill_diagonal(near, -2)
    return near, near.argmax(1)


def test_two_classes_by_their_probability() -> None:
    old = np.array([[0.0, 0.1], [3.0, -3.0], [1.0, 1.0]])
    new = old + np.array([[0.2, 0.0], [0.0, 0.1], [5.0, 5.0]])
    second = [1 / (1 + np.exp(rows[:, 0] - rows[:, 1])) for rows in (new, old)]
    expected = 1 - np.abs(second[0] - second[1]).mean()
    assert fidelity(new, old, "classification").value == pytest.approx(expected)
    # Which the cosine takes for the opposite, though the model hardly minds.
    assert fidelity(new[:1], old[:1], "classification").value > 0.9
    assert fidelity(new[:1], old[:1]).value < 0.5


def test_neighbours_by_definition() -> None:
    old = RNG.standard_normal((700, 5))
    new = old + 0.2 * RNG.standard_normal((700, 5))
    near, best = nearest(old)
    _, chosen = nearest(new)
    rows = np.arange(700)
    regret = near[rows, best] - near[rows, chosen]
    score = fidelity(new, old, "embedding")
    assert score.details["nearest_kept"] == pytest.approx(np.mean(chosen == best))
    assert score.details["neighbour_regret"] == pytest.approx(np.mean(regret))
    assert score.value == pytest.approx(min(score.details["cosine"], 1 - np.mean(regret)))


def test_a_rotated_space_keeps_neighbours_and_is_not_the_same() -> None:
    old = RNG.standard_normal((30, 6))
    rotation = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
    score = fidelity(old @ rotation, old, "embedding")
    assert score.details["nearest_kept"] == 1
    assert score.value < 0.6


def test_embeddings_that_all_lie_close_are_not_taken_for_kept() -> None:
    old = np.ones(64) * 10 + RNG.standard_normal((60, 64))
    score = fidelity(np.ones((60, 64)), old, "embedding")
    assert score.details["cosine"] > 0.99
    assert score.details["nearest_kept"] < 0.1


def test_ties_of_the_original_cost_nothing() -> None:
    old = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    score = fidelity(old + 1e-9 * RNG.standard_normal(old.shape), old, "embedding")
    assert score.details["nearest_kept"] == 1
    assert score.details["neighbour_regret"] == 0


def test_pairs_are_texts_of_their_own() -> None:
    old = RNG.standard_normal((20, 2, 4))
    new = old + 0.3 * RNG.standard_normal(old.shape)
    paired = fidelity(new, old, "embedding", pairs=True).details
    flat = fidelity(new.reshape(40, 4), old.reshape(40, 4), "embedding").details
    assert paired["neighbour_regret"] == flat["neighbour_regret"]


def test_decisions() -> None:
    old = np.log([[0.6, 0.3, 0.1], [0.5, 0.49, 0.01], [0.1, 0.1, 0.8]])
    new = np.array([[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    for reference in (old, np.exp(old)):
        details = fidelity(new, reference, "classification").details
        assert details["argmax_kept"] == pytest.approx(2 / 3)
        assert details["decision_regret"] == pytest.approx(0.01 / 3)


@pytest.mark.parametrize(
    ("outputs", "reference", "message"),
    [
        ({"y": np.ones(2)}, None, "needs the original"),
        ({"y": np.ones(2)}, {"z": np.ones(2)}, "The outputs are y"),
        ({}, {}, "none"),
        ({"y": np.ones(2)}, {"y": np.ones(3)}, "2 samples"),
        ({"y": np.ones((0, 2))}, {"y": np.ones((0, 2))}, "at least one"),
    ],
)
def test_what_cannot_be_compared(outputs: Any, reference: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve("fidelity").score(Evaluation(outputs, reference))
