"""int8 products are exact, on whatever processor the tests run; a processor is chosen by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openglm.errors import InputError
from openglm.runtimes.engine import engine, name_of
from openglm.runtimes.onnxruntime import _PROBE, Runner


def product(weights: np.ndarray) -> onnx.ModelProto:
    """y = x @ weights, x in uint8 and the weights in int8."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, columns])],
        [helper.make_tensor("w", TensorProto.INT8, weights.shape, weights.tobytes(), raw=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_the_largest_products_are_exact(tmp_path: Path) -> None:
    weights = np.where(np.random.default_rng(0).random((256, 48)) < 0.5, -128, 127).astype(np.int8)
    x = np.full((1, 256), 255, np.uint8)
    path = tmp_path / "product.onnx"
    onnx.save(product(weights), path)
    found = Runner(path, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weights.astype(np.int64))


def test_the_probe_is_what_is_said_of_it() -> None:
    assert onnx.load_from_string(_PROBE) == product(np.full((2, 1), 127, np.int8))


def test_a_processor_is_chosen_and_what_it_leaves_to_the_cpu_is_told(tmp_path: Path) -> None:
    """Azure's provider, which every build has, runs operators of its own only."""
    path = tmp_path / "product.onnx"
    onnx.save(product(np.ones((4, 2), np.int8)), path)
    chosen = engine("onnxruntime:azure")
    assert (chosen.name, chosen.label, name_of(chosen.label)) == (
        "onnxruntime", "onnxruntime:Azure", "onnxruntime",
    )  # fmt: skip
    assert chosen.placed(path) == {"Azure": [], "CPU": ["MatMulInteger"]}
    assert engine("onnxruntime").placed(path) == {"CPU": ["MatMulInteger"]}
    assert engine("onnxruntime").label == "onnxruntime", "another's choice is not its own"
    found = chosen.load(path, threads=1).run({"x": np.ones((1, 4), np.uint8)})["y"]
    np.testing.assert_array_equal(found, [[4, 4]])


def test_a_processor_that_the_build_has_not_is_told_of() -> None:
    with pytest.raises(InputError, match="no processor 'vulkan' here") as caught:
        engine("onnxruntime:vulkan")
    assert "CPU" in caught.value.advice
    with pytest.raises(InputError, match="chooses its processor by itself"):
        engine("mnn:gpu")
