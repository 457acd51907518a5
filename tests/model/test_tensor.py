"""Tensor specs: what fits, what is converted, and what is said of the rest."""

from __future__ import annotations

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.model.tensor import TensorSpec, check_inputs

X = TensorSpec(name="x", dtype="float32", shape=("batch", 3))
Y = TensorSpec(name="y", dtype="int64", shape=("batch",))


def test_what_fits_stays_the_same() -> None:
    array = np.zeros((2, 3), np.float32)
    assert X.check(array) is array


@pytest.mark.parametrize(
    "array", [[[1, 2, 3]], np.ones((1, 3), np.float64), np.ones((1, 3), np.int8), [[True] * 3]]
)
def test_converted_without_loss(array: object) -> None:
    assert X.check(array).dtype == np.float32  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "array", [np.array([1.5]), np.array([np.nan]), np.array(["1"]), np.array([1j]), np.array([None], object)]
)
def test_type_that_does_not_fit(array: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"'y' has type .* where the model takes int64"):
        Y.check(array)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3), ()])
def test_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"'x' has shape .* where the model takes \[batch, 3\]"):
        X.check(np.zeros(shape, np.float32))


def test_rows_of_different_length() -> None:
    with pytest.raises(InputError, match="its rows differ in length"):
        X.check([[1, 2, 3], [1]])  # type: ignore[arg-type]


def test_inputs_by_name() -> None:
    good = {"x": np.zeros((2, 3), np.float32), "y": np.zeros(2, np.int64)}
    assert check_inputs((X, Y), good).keys() == {"x", "y"}
    with pytest.raises(InputError, match="'y' is missing"):
        check_inputs((X, Y), {"x": good["x"]})
    with pytest.raises(InputError, match="no input 'z'"):
        check_inputs((X, Y), good | {"z": good["y"]})
    with pytest.raises(InputError, match="disagree on 'batch': 2 and 3"):
        check_inputs((X, Y), good | {"y": np.zeros(3, np.int64)})
    with pytest.raises(InputError, match="A list is no set of inputs"):
        check_inputs((X, Y), [good["x"]])  # type: ignore[arg-type]
