"""int8 weights: the graph computes with the dequantized weights, exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes.affine import blocks, blockwise, symmetric
from openglm.passes.contract import Applied
from openglm.passes.wi8_afp32 import WeightInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


def dequantized(weight: np.ndarray, axis: int) -> np.ndarray:
    integers, scales = symmetric(weight, axis)
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    return integers * np.expand_dims(scales, others)


def floats(model: ir.Model) -> int:
    """Elements of the largest float constant."""
    sizes = [v.const_value for v in model.graph.initializers.values()]
    return max((t.size for t in sizes if t.dtype == ir.DataType.FLOAT), default=0)


@pytest.mark.parametrize(
    ("node", "shape", "axis", "x"),
    [
        ("MatMul(x, w)", (64, 96), 1, (2, 3, 64)),
        ("MatMul(x, w)", (4, 64, 96), 2, (4, 3, 64)),
        ("Gemm(x, w)", (64, 96), 1, (3, 64)),
        ("Gemm <transB=1> (x, w)", (96, 64), 0, (3, 64)),
        ("Conv(x, w)", (32, 16, 3, 3), 0, (2, 16, 8, 8)),
        ("Conv <group=32> (x, w)", (32, 1, 12, 12), 0, (2, 32, 13, 13)),
        ("Conv(x, w)", (64, 16, 5), 0, (2, 16, 8)),
        ("ConvTranspose(x, w)", (16, 32, 3, 3), 1, (2, 16, 4, 4)),
    ],
)
def test_layers_compute_with_the_dequantized_weight(
    build: Build,
    run: Run,
    apply: Apply,
    rng: np.random.Generator,
    node: str,
    shape: tuple[int, ...],
    axis: int,
    x: tuple[int, ...],
) -> None:
    weight = rng.normal(size=shape).astype(np.float32)
    rank = ",".join("abcde"[: len(x)])
    inputs, text = ",".join(map(str, x)), f"{{ y = {node} }}"
    result = apply(WeightInt8(), build(f"g (float[{inputs}] x) => (float[{rank}] y) {text}", w=weight))
    assert result.changed
    assert floats(result.graph) < weight.size / 4
    feeds = {"x": rng.normal(size=x).astype(np.float32)}
    expected = build(f"g (float[{inputs}] x) => (float[{rank}] y) {text}", w=dequantized(weight, axis))
    np.testing.assert_allclose(run(result.graph, feeds)["y"], run(expected, feeds)["y"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("node", ["MatMul(x, w)", "Gemm(x, w, b)", "Gemm <transB=1> (x, w, b)"])
def test_a_linear_layer_makes_floats_once(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, node: str
) -> None:
    turned = "transB" in node
    weight, bias = rng.normal(size=(96, 64) if turned else (64, 96)), rng.normal(size=96)
    arrays = {"w": weight.astype(np.float32)} | ({"b": bias.astype(np.float32)} if "b)" in node else {})
    model = build(f"g (float[n,64] x) => (float[n,96] y) {{ h = {node} y = Abs(h) }}", **arrays)
    result = apply(WeightInt8(), model).graph
    weights = [each for each in result.graph if each.inputs[0].const_value is not None]
    assert [each.op_type for each in weights] == ["Cast"]  # what an engine computes once
    x = rng.normal(size=(5, 64)).astype(np.float32)
    real = dequantized(arrays["w"], 0).T if turned else dequantized(arrays["w"], 1)
    expected = np.abs(x @ real + arrays.get("b", np.float32(0)))
    np.testing.assert_allclose(run(result, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_a_scaled_gemm_scales_its_weight(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    weight = rng.normal(size=(64, 96)).astype(np.float32)
    bias = rng.normal(size=96).astype(np.float32)
    text = "g (float[n,64] x) => (float[n,96] y) { y = Gemm <alpha=0.5, beta=2.0> (x, w, b) }"
    x = rng.normal(size=(5, 64)).astype(np.float32)
    found = run(apply(WeightInt8(), build(text, w=weight, b=bias)).graph, {"x": x})["y"]
    np.testing.assert_allclose(found, 0.5 * (x @ dequantized(weight, 1)) + 2 * bias, rtol=1e-4, atol=1e-4)


def test_products_in_int8_keep_8_bits_in_memory(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    weight = rng.normal(size=(100, 96)).astype(np.float32)
    bias = rng.normal(size=96).astype(np.float32)
    model = build("g (float[n,100] x) => (float[n,96] y) { h = Gemm(x, w, b) y = Abs(h) }", w=weight, b=bias)
    result = apply(WeightInt8(compute="int8", group_size=32), model).graph
    assert "MatMulNBits" in [node.op_type for node in result.graph]
    integers, scales, zeros = blockwise(blocks(weight, 32), 8, True)
    real = (integers.astype(np.float32) - zeros[..., None]) * scales[..., None]
    x = rng.normal(size=(7, 100)).astype(np.float32)
    found = run(result, {"x": x})["y"]
    expected = np.abs(x @ real.reshape(96, -1)[:, :100].T + bias)
    assert np.abs(found - expected).max() < 0.02 * expected.max()


def test_a_weight_read_along_both_axes_has_scales_for_each(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    weight = (rng.normal(size=(64, 64)) * np.linspace(0.01, 3, 64)).astype(np.float32)
    model = build(
        "g (float[n,64] x) => (float[n,64] y, float[n,64] z) { y = MatMul(x, w) z = Gemm <transB=1> (x, w) }",
        w=weight,
    )
    x = rng.normal(size=(3, 64)).astype(np.float32)
    found = run(apply(WeightInt8(), model).graph, {"x": x})
    np.testing.assert_allclose(found["y"], x @ dequantized(weight, 1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["z"], x @ dequantized(weight, 0).T, rtol=1e-4, atol=1e-4)


def test_a_weight_that_is_an_output_stays_one(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,96] y, float[64,96] w) { y = MatMul(x, w) }",
        w=rng.normal(size=(64, 96)).astype(np.float32),
    )
    apply(WeightInt8(), model)


@pytest.mark.parametrize("kind", ["float16", "double", "int32"])
@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_other_types_are_left_alone(build: Build, apply: Apply, kind: str, compute: str) -> None:
    array = np.ones((64, 96), {"float16": np.float16, "double": np.float64, "int32": np.int32}[kind])
    model = build(f"g ({kind}[n,64] x) => ({kind}[n,96] y) {{ y = MatMul(x, w) }}", w=array)
    assert not apply(WeightInt8(compute=compute), model).changed


def test_applied_twice_the_second_finds_nothing(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    arrays = {"w": rng.normal(size=(64, 96)).astype(np.float32)}
    arrays["t"] = rng.normal(size=(5000, 64)).astype(np.float32)
    model = build("g (int64[n] i) => (float[n,96] y) { x = Gather(t, i) y = MatMul(x, w) }", **arrays)
    once = apply(WeightInt8(), model)
    assert once.changed
    assert not apply(WeightInt8(), once.graph).changed


def test_the_code_tells_configs_apart() -> None:
    codes = {
        WeightInt8().code,
        WeightInt8(compute="int8").code,
        WeightInt8(compute="int8", group_size=32).code,
    }
    assert len(codes) == 3
