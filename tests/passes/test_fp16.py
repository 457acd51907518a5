"""Half precision keeps the interface in float32 and refuses what it cannot hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes.contract import Applied
from openglm.passes.fp16 import Half
from openglm.passes.static_wi8_ai8 import StaticInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


@pytest.fixture
def weight(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(64, 32)).astype(np.float32)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def dtypes(model: ir.Model) -> dict[str, ir.DataType]:
    return {name: value.const_value.dtype for name, value in model.graph.initializers.items()}


def test_weights_are_stored_in_half_and_computed_with_in_single(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, weight: np.ndarray
) -> None:
    model = build("g (float[n,64] x) => (float[n,32] y) { h = MatMul(x, w) y = Add(h, small) }", w=weight,
                  small=weight[0])  # fmt: skip
    result = apply(Half(), model)
    assert result.changed
    assert dtypes(result.graph) == {"w_fp16": ir.DataType.FLOAT16, "small": ir.DataType.FLOAT}
    x = rng.normal(size=(3, 64)).astype(np.float32)
    expected = x @ weight.astype(np.float16).astype(np.float32) + weight[0]
    np.testing.assert_allclose(run(result.graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_products_in_half(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, weight: np.ndarray
) -> None:
    model = build(
        """g (float[n,64] x) => (float[n,32] y, float[n,32] z, float[n,n] a) {
            y = Gemm(x, w, b) z = Softmax(y) t = Transpose <perm=[1,0]> (z) a = MatMul(z, t)
        }""",
        w=weight, b=weight[0],
    )  # fmt: skip
    result = apply(Half(compute="fp16"), model)
    assert result.changed
    assert set(dtypes(result.graph).values()) == {ir.DataType.FLOAT16}
    feeds = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    before, after = run(model, feeds), run(result.graph, feeds)
    for name, array in before.items():
        assert after[name].dtype == np.float32
        np.testing.assert_allclose(after[name], array, rtol=0.01, atol=0.05)
    makers = {node.op_type: node for node in result.graph.graph}
    assert makers["Softmax"].inputs[0].producer().attributes["to"].value == ir.DataType.FLOAT


def test_products_in_half_after_shapes_are_gone(build: Build, apply: Apply, weight: np.ndarray) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,n] y) { h = MatMul(x, w) t = Transpose(h) y = MatMul(h, t) }", w=weight
    )
    model = apply(Half(), model).graph
    result = apply(Half(compute="fp16"), model).graph
    products = [node for node in result.graph if node.op_type == "MatMul"]
    assert all(v.producer().attributes["to"].value == 10 for n in products for v in n.inputs if v.producer())


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
@pytest.mark.parametrize("value", [1e5, -1e6, -np.inf, np.finfo(np.float32).min])
def test_values_beyond_the_range_stay(
    build: Build,
    run: Run,
    apply: Apply,
    rng: np.random.Generator,
    weight: np.ndarray,
    compute: str,
    value: float,
) -> None:
    weight[3, 3] = value
    model = build("g (float[n,64] x) => (float[n,32] y) { h = MatMul(x, w) y = Tanh(h) }", w=weight)
    result = apply(Half(compute=compute), model)
    assert not result.changed
    assert any(note.startswith("w ") for note in result.notes)
    feeds = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    np.testing.assert_array_equal(run(result.graph, feeds)["y"], run(model, feeds)["y"])


def test_values_too_small_stay(build: Build, apply: Apply, weight: np.ndarray) -> None:
    model = build("g (float[n,64] x) => (float[n,32] y) { y = MatMul(x, w) }", w=weight * np.float32(1e-7))
    assert not apply(Half(), model).changed


def test_zeros_are_in_range(build: Build, apply: Apply, weight: np.ndarray) -> None:
    model = build("g (float[n,64] x) => (float[n,32] y) { y = MatMul(x, w) }", w=weight * 0)
    assert apply(Half(), model).changed


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", ["float16", "double", "int32"])
def test_other_types_are_left_alone(build: Build, apply: Apply, kind: str, compute: str) -> None:
    array = np.ones((64, 96), {"float16": np.float16, "double": np.float64, "int32": np.int32}[kind])
    model = build(f"g ({kind}[n,64] x) => ({kind}[n,96] y) {{ y = MatMul(x, w) }}", w=array)
    assert not apply(Half(compute=compute), model).changed


@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_branches(build: Build, run: Run, apply: Apply, rng: np.random.Generator, compute: str) -> None:
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    model = build(
        """g (bool c, float[n,64] x) => (float[n,64] y) {
            y = If (c) <
                then_branch = yes () => (float[n,64] p) { p = MatMul(x, w) },
                else_branch = no () => (float[n,64] q) { h = MatMul(x, w) q = Relu(h) }
            >
        }""",
        w=weight,
    )
    result = apply(Half(compute=compute), model).graph
    for c in (True, False):
        feeds = {"c": np.array(c), "x": rng.normal(size=(3, 64)).astype(np.float32)}
        np.testing.assert_allclose(run(result, feeds)["y"], run(model, feeds)["y"], rtol=0.02, atol=0.05)


def test_a_shared_constant_is_stored_once(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }",
        w=rng.normal(size=(64, 64)).astype(np.float32),
    )
    assert list(dtypes(apply(Half(), model).graph)) == ["w_fp16"]


def test_scales_of_a_quantized_model_stay(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,96] y) { y = Gemm(x, w, b) }",
        w=rng.normal(size=(64, 96)).astype(np.float32), b=rng.normal(size=96).astype(np.float32),
    )  # fmt: skip
    quantized = apply(StaticInt8(), model, [{"x": rng.normal(size=(4, 64)).astype(np.float32)}]).graph
    assert not apply(Half(), quantized).changed
