"""Back to float32: what integers meant, and where they ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes import affine
from openglm.passes.contract import Applied, GraphPass
from openglm.passes.dequantize import Dequantize
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.rewriting import constant_of
from openglm.passes.sparse_storage import SparseStorage
from openglm.passes.wi4_afp32 import WeightInt4
from openglm.passes.wi8_afp32 import WeightInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]
LINEAR = """g (float[n, 96] x) => (float[n, 80] y) { y = MatMul(x, weight) }"""


@pytest.fixture
def weight(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(96, 80)).astype(np.float32)


@pytest.mark.parametrize("scheme", [DynamicInt8(), WeightInt8()])
def test_the_weight_is_what_its_integers_mean(
    build: Build, apply: Apply, weight: np.ndarray, scheme: GraphPass
) -> None:
    quantized = apply(scheme, build(LINEAR, weight=weight)).graph
    (held,) = apply(Dequantize(), quantized).graph.graph.initializers.values()
    integers, scales = affine.symmetric(weight, 1)
    np.testing.assert_array_equal(constant_of(held), integers.astype(np.float32) * scales)
    assert held.name == "weight"


def test_a_turned_weight_is_scaled_along_its_rows(
    build: Build, apply: Apply, run: Run, weight: np.ndarray, rng: np.random.Generator
) -> None:
    text = "g (float[n, 96] x) => (float[n, 80] y) { y = Gemm <transB=1> (x, weight, b) }"
    bias = rng.normal(size=80).astype(np.float32)
    quantized = apply(WeightInt8(), build(text, weight=np.ascontiguousarray(weight.T), b=bias)).graph
    floats = apply(Dequantize(), quantized).graph
    assert [node.op_type for node in floats.graph] == ["Gemm", "Add"]
    integers, scales = affine.symmetric(weight, 1)
    x = rng.normal(size=(3, 96)).astype(np.float32)
    expected = x @ (integers.astype(np.float32) * scales) + bias
    np.testing.assert_allclose(run(floats, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", [DynamicInt8(), WeightInt8(), WeightInt4(), WeightInt4(symmetric=False)])
def test_quantized_again_it_is_the_same(
    build: Build, apply: Apply, weight: np.ndarray, scheme: GraphPass
) -> None:
    first = apply(scheme, build(LINEAR, weight=weight)).graph
    again = apply(scheme, apply(Dequantize(), first).graph).graph
    held = [
        {str(value.name): constant_of(value) for value in model.graph.initializers.values()}
        for model in (apply(Dequantize(), first).graph, apply(Dequantize(), again).graph)
    ]
    for name, array in held[0].items():
        np.testing.assert_allclose(held[1][name], array, atol=0.02 * np.abs(array).max())


def test_a_relu_that_integers_stood_for_stays(build: Build, apply: Apply, run: Run) -> None:
    model = build(
        """g (float[n, 4] x) => (float[n, 4] y) {
            q = QuantizeLinear(x, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            y = Neg(d)
        }""",
        scale=np.float32(0.1),
        zero=np.uint8(0),
    )
    result = apply(Dequantize(), model).graph
    assert [node.op_type for node in result.graph] == ["Clip", "Neg"]
    found = run(result, {"x": np.float32([[-3, 0.26, 5, 99]])})["y"]
    np.testing.assert_allclose(found, [[0, -0.26, -5, -25.5]], rtol=1e-6)


def test_weights_that_are_stored_as_what_is_not_zero_are_whole_again(
    build: Build, apply: Apply, weight: np.ndarray
) -> None:
    weight[np.abs(weight) < 1.5] = 0
    stored = apply(SparseStorage(), build(LINEAR, weight=weight))
    assert stored.changed
    result = apply(Dequantize(), stored.graph).graph
    (node,) = result.graph
    assert node.op_type == "MatMul"
    np.testing.assert_array_equal(constant_of(node.inputs[1]), weight)


def test_what_is_in_floats_stays(build: Build, apply: Apply, weight: np.ndarray) -> None:
    assert not apply(Dequantize(), build(LINEAR, weight=weight)).changed
