"""Dynamic int8 is DynamicQuantizeLinear and MatMulInteger, as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes.contract import Applied
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


def quantized_activation(x: np.ndarray) -> tuple[np.ndarray, np.float32, int]:
    """DynamicQuantizeLinear, as its specification spells it out."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    zero = int(np.clip(np.rint(np.float32(-low) / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


def emulated(x: np.ndarray, weight: np.ndarray, *, per_channel: bool, bits: int) -> np.ndarray:
    top = 2 ** (bits - 1) - 1
    largest = np.abs(weight).max(axis=0 if per_channel else None)
    scales = (largest / np.float32(top)).astype(np.float32)
    integers = np.rint(weight / scales).astype(np.int64)
    activation, scale, zero = quantized_activation(x)
    return ((activation - zero) @ integers).astype(np.float32) * (scale * scales)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


@pytest.fixture
def weight(rng: np.random.Generator) -> np.ndarray:
    return (rng.normal(size=(64, 96)) * np.linspace(0.1, 2, 96)).astype(np.float32)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [7, 8])
def test_outputs_are_those_of_the_definition(
    build: Build, run: Run, define: Run, apply: Apply, rng: np.random.Generator, weight: np.ndarray,
    per_channel: bool, bits: int,
) -> None:  # fmt: skip
    model = build("g (float[n,s,64] x) => (float[n,s,96] y) { y = MatMul(x, w) }", w=weight)
    result = apply(DynamicInt8(per_channel=per_channel, weight_bits=bits), model)
    assert result.changed
    x = rng.normal(size=(2, 5, 64)).astype(np.float32)
    expected = emulated(x, weight, per_channel=per_channel, bits=bits)
    np.testing.assert_allclose(define(result.graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)
    if bits == 7:  # with 8, x86 processors without VNNI saturate
        np.testing.assert_allclose(run(result.graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_gemm_keeps_its_bias(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, weight: np.ndarray
) -> None:
    bias = rng.normal(size=96).astype(np.float32)
    model = build(
        "g (float[n,64] x) => (float[n,96] y) { y = Gemm <transB=1> (x, w, b) }", w=weight.T.copy(), b=bias
    )
    x = rng.normal(size=(3, 64)).astype(np.float32)
    found = run(apply(DynamicInt8(weight_bits=7), model).graph, {"x": x})["y"]
    np.testing.assert_allclose(
        found, emulated(x, weight, per_channel=True, bits=7) + bias, rtol=1e-5, atol=1e-5
    )


def test_layers_that_share_an_input_quantize_it_once(build: Build, apply: Apply, weight: np.ndarray) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,96] y, float[n,96] z) { y = MatMul(x, a) z = MatMul(x, b) }",
        a=weight, b=weight + 1,
    )  # fmt: skip
    assert kinds(apply(DynamicInt8(), model).graph).count("DynamicQuantizeLinear") == 1


def test_branches_quantize_for_themselves(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, weight: np.ndarray
) -> None:
    model = build(
        """g (bool c, float[n,64] x) => (float[n,96] y, float[n,96] z) {
            y = If (c) <
                then_branch = yes () => (float[n,96] p) { p = MatMul(x, a) },
                else_branch = no () => (float[n,96] q) { q = MatMul(x, b) }
            >
            z = MatMul(x, a)
        }""",
        a=weight, b=weight * 2,
    )  # fmt: skip
    result = apply(DynamicInt8(weight_bits=7), model).graph
    x = rng.normal(size=(3, 64)).astype(np.float32)
    for c, factor in ((True, 1), (False, 2)):
        found = run(result, {"c": np.array(c), "x": x})
        np.testing.assert_allclose(
            found["y"], factor * emulated(x, weight, per_channel=True, bits=7), rtol=1e-4, atol=1e-4
        )
    assert all(value.dtype != ir.DataType.FLOAT or value.const_value.size < 4096
               for value in result.graph.initializers.values())  # fmt: skip


def test_a_shared_weight_is_stored_once(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    square = rng.normal(size=(64, 64)).astype(np.float32)
    model = build(
        "g (float[n,64] x) => (float[n,64] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, w) }", w=square
    )
    result = apply(DynamicInt8(), model).graph
    assert kinds(result).count("MatMulInteger") == 2
    assert sum(value.const_value.size for value in result.graph.initializers.values()) == 64 * 64 + 2 * 64


def test_a_small_head_stays_float_and_is_named(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,512] x) => (float[n,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, classes) }",
        w=rng.normal(size=(512, 512)).astype(np.float32),
        classes=rng.normal(size=(512, 8)).astype(np.float32),
    )
    result = apply(DynamicInt8(), model)
    assert kinds(result.graph).count("MatMul") == kinds(result.graph).count("MatMulInteger") == 1
    assert any("classes" in note for note in result.notes)


def test_small_layers_and_convolutions_stay_float(
    build: Build, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        "g (float[n,64,8,8] x) => (float[n,64,8,8] y) { h = Conv(x, k) y = MatMul(h, w) }",
        k=rng.normal(size=(64, 64, 1, 1)).astype(np.float32), w=rng.normal(size=(8, 8)).astype(np.float32),
    )  # fmt: skip
    result = apply(DynamicInt8(), model)
    assert not result.changed
    assert kinds(result.graph) == ["Conv", "MatMul"]
    assert any("Convolutions" in note for note in result.notes)


def test_a_dead_output_is_zero(build: Build, run: Run, apply: Apply, weight: np.ndarray) -> None:
    weight[:, 5] = 0
    model = build("g (float[n,64] x) => (float[n,96] y) { y = MatMul(x, w) }", w=weight)
    found = run(apply(DynamicInt8(), model).graph, {"x": np.ones((1, 64), np.float32)})["y"]
    assert np.isfinite(found).all()
    assert found[0, 5] == 0


def test_a_quantized_model_is_left_alone(build: Build, apply: Apply, weight: np.ndarray) -> None:
    model = build("g (float[n,64] x) => (float[n,96] y) { y = MatMul(x, w) }", w=weight)
    once = apply(DynamicInt8(), model).graph
    assert not apply(DynamicInt8(), once).changed


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_precisions_are_left_alone(build: Build, apply: Apply, weight: np.ndarray, kind: str) -> None:
    array = weight.astype({"float16": np.float16, "double": np.float64}[kind])
    model = build(f"g ({kind}[n,64] x) => ({kind}[n,96] y) {{ y = MatMul(x, w) }}", w=array)
    assert not apply(DynamicInt8(), model).changed


def test_the_code_tells_configs_apart() -> None:
    codes = {DynamicInt8(per_channel=p, weight_bits=b, embeddings=e).code
             for p in (True, False) for b in (7, 8) for e in (True, False)}  # fmt: skip
    assert len(codes) == 8
