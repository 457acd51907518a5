"""Fixed graphs in place of open ones: the right one is taken, and what was filled up is cut off."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.model.tensor import TensorSpec
from openglm.runtimes.buckets import Buckets

TEXT = (
    TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),
    TensorSpec(name="mask", dtype="int64", shape=("batch", "length")),
)
TOKENS = (TensorSpec(name="tokens", dtype="float32", shape=("batch", "length", 2)),)
SUM = (TensorSpec(name="sum", dtype="int64", shape=("batch",)),)


def graph(place: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network with a mask computes."""
    held = arrays["ids"] * arrays["mask"]
    return {"tokens": np.stack([held, 2 * held], -1).astype(np.float32), "sum": held.sum(1)}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 4, 5, 8])
def test_as_the_open_graph(rows: int, length: int) -> None:
    rng = np.random.default_rng(length)
    given = {"ids": rng.integers(1, 9, (rows, length)), "mask": rng.integers(0, 2, (rows, length))}
    buckets = Buckets.of(TEXT, (*TOKENS, *SUM), {"length": [8, 4]})
    called = []

    def call(place: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        called.append(buckets.sizes[place]["length"])
        assert {array.shape for array in arrays.values()} == {(1, called[-1])}
        return graph(place, arrays)

    found = buckets.run(given, call)
    for name, array in graph(0, given).items():
        np.testing.assert_array_equal(found[name], array)
    assert called == [4 if length <= 4 else 8] * rows


def test_longer_than_the_largest() -> None:
    buckets = Buckets.of(TEXT, SUM, {"length": [4, 8]})
    with pytest.raises(InputError, match="length 8"):
        buckets.run({"ids": np.ones((1, 9)), "mask": np.ones((1, 9))}, graph)


def test_a_dimension_without_sizes() -> None:
    with pytest.raises(InputError, match="'length'") as caught:
        Buckets.of(TEXT, SUM, {"batch": [1]})
    assert "--sizes length=" in caught.value.advice


def test_what_is_fixed_is_run_as_it_is() -> None:
    specs = (TensorSpec(name="x", dtype="float32", shape=(2, 3)),)
    buckets = Buckets.of(specs, (TensorSpec(name="y", dtype="float32", shape=(2, 3)),), {})
    assert buckets.sizes == ({},)
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = buckets.run({"x": given}, lambda _, arrays: {"y": arrays["x"] + 1})
    np.testing.assert_array_equal(found["y"], given + 1)


def test_every_combination_of_two_open_sizes() -> None:
    specs = (TensorSpec(name="picture", dtype="float32", shape=("n", 3, "height", "width")),)
    buckets = Buckets.of(specs, specs, {"height": [8, 16], "width": [4]})
    assert buckets.sizes == ({"height": 8, "width": 4}, {"height": 16, "width": 4})
    given = np.random.default_rng(0).normal(size=(2, 3, 9, 3)).astype(np.float32)
    found = buckets.run({"picture": given}, lambda _, arrays: dict(arrays))
    np.testing.assert_array_equal(found["picture"], given)


def test_kept_beside_the_model(tmp_path: Path) -> None:
    buckets = Buckets.of(TEXT, TOKENS, {"length": [4, 8]})
    buckets.write(tmp_path / "model.tflite")
    assert Buckets.read(tmp_path / "model.tflite") == buckets
    assert (tmp_path / "model.tflite.json").is_file()
