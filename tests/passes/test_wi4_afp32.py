"""4-bit weights: the graph computes with the dequantized weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes.affine import blocks, blockwise
from openglm.passes.contract import Applied
from openglm.passes.wi4_afp32 import WeightInt4

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


def dequantized(grouped: np.ndarray, is_symmetric: bool = True) -> np.ndarray:
    integers, scales, zeros = blockwise(grouped, 4, is_symmetric)
    return (integers.astype(np.float32) - zeros[..., None]) * scales[..., None]


@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("inputs", [128, 150])
def test_layers_compute_with_the_dequantized_weight(
    build: Build,
    run: Run,
    apply: Apply,
    rng: np.random.Generator,
    group_size: int,
    symmetric: bool,
    inputs: int,
) -> None:
    weight = rng.normal(size=(inputs, 48)).astype(np.float32) + 0.5
    bias = rng.normal(size=48).astype(np.float32)
    model = build(
        f"g (float[n,{inputs}] x) => (float[n,48] y) {{ h = Gemm <transB=1> (x, w, b) y = Abs(h) }}",
        w=weight.T.copy(),
        b=bias,
    )
    result = apply(WeightInt4(group_size=group_size, symmetric=symmetric), model)
    assert result.changed
    real = dequantized(blocks(weight, group_size), symmetric).reshape(48, -1)[:, :inputs].T
    x = rng.normal(size=(5, inputs)).astype(np.float32)
    found = run(result.graph, {"x": x})["y"]
    np.testing.assert_allclose(found, np.abs(x @ real + bias), rtol=1e-4, atol=1e-3)


def test_asymmetric_groups_lose_less_on_skewed_weights(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    weight = np.exp(rng.normal(size=(128, 64))).astype(np.float32)
    model = build("g (float[n,128] x) => (float[n,64] y) { h = MatMul(x, w) y = Abs(h) }", w=weight)
    x = rng.normal(size=(9, 128)).astype(np.float32)
    errors = [
        np.square(
            run(apply(WeightInt4(symmetric=kind), model).graph, {"x": x})["y"] - np.abs(x @ weight)
        ).mean()
        for kind in (True, False)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("ir_version", [8, 10])
def test_int4_rows_are_looked_up_as_they_were_stored(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, ir_version: int
) -> None:
    table = rng.normal(size=(200, 64)).astype(np.float32)
    model = build(
        """g (int64[n,s] i) => (float[n,s,64] y, float[n,s,64] z) {
            y = Gather(t, i) h = Gather(t, i) z = Neg(h)
        }""",
        t=table,
    )
    model.ir_version = ir_version
    result = apply(WeightInt4(embeddings="int4", group_size=16), model).graph
    real = dequantized(table.reshape(200, -1, 16)).reshape(200, 64)
    ids = np.array([[0, 1, 2], [199, 17, 5]])
    found = run(result, {"i": ids})
    np.testing.assert_allclose(found["y"], real[ids], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["z"], -real[ids], rtol=1e-6, atol=1e-6)
    assert (
        sum(v.const_value.nbytes for v in result.graph.initializers.values()) == 200 * 64 // 2 + 200 * 4 * 4
    )


def test_rows_that_groups_do_not_fit_become_int8(
    build: Build, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        "g (int64[n] i) => (float[n,40] y) { y = Gather(t, i) }",
        t=rng.normal(size=(200, 40)).astype(np.float32),
    )
    result = apply(WeightInt4(embeddings="int4"), model)
    assert result.changed
    assert not apply(WeightInt4(embeddings="float"), model).changed
    kinds = [value.dtype for value in result.graph.graph.initializers.values()]
    assert ir.DataType.INT8 in kinds


def test_the_head_and_convolutions_stay_float(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,64,8,1] x) => (float[n,64,8,64] y) { h = Conv(x, k) y = MatMul(h, w) }",
        k=rng.normal(size=(64, 64, 1, 1)).astype(np.float32),
        w=rng.normal(size=(1, 64)).astype(np.float32),
    )
    result = apply(WeightInt4(), model)
    assert not result.changed
    assert any("Convolutions" in note for note in result.notes)


TIED = """g (int64[n] i) => (float[n,500] y) {
    x = Gather(t, i) h = MatMul(x, w) r = Tanh(h) u = Transpose <perm=[1,0]> (t) y = MatMul(r, u)
}"""


def test_a_large_tied_head_takes_8_bits(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    arrays = {"t": rng.normal(size=(500, 64)).astype(np.float32)}
    arrays["w"] = rng.normal(size=(64, 64)).astype(np.float32) / 8
    model = build(TIED, **arrays)
    result = apply(WeightInt4(), model).graph
    widths = [n.attributes["bits"].value for n in result.graph if n.op_type == "MatMulNBits"]
    assert widths == [4, 8]
    assert len(ir.to_proto(result).SerializeToString()) < 0.65 * arrays["t"].nbytes
    before, after = (run(m, {"i": np.arange(500)})["y"] for m in (model, result))
    assert np.abs(before - after).max() < 0.2 * np.abs(before).max()


def test_a_small_head_stays_float(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,1024] x) => (float[n,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        w=rng.normal(size=(1024, 1024)).astype(np.float32),
        v=rng.normal(size=(1024, 8)).astype(np.float32),
    )
    kinds = [node.op_type for node in apply(WeightInt4(), model).graph.graph]
    assert kinds == ["MatMulNBits", "Relu", "MatMul"]


def test_compute_int8_is_close(build: Build, run: Run, apply: Apply, rng: np.random.Generator) -> None:
    weight = rng.normal(size=(128, 64)).astype(np.float32)
    model = build("g (float[n,128] x) => (float[n,64] y) { h = MatMul(x, w) y = Abs(h) }", w=weight)
    x = {"x": rng.normal(size=(9, 128)).astype(np.float32)}
    exact, rounded = (run(apply(WeightInt4(compute=kind), model).graph, x)["y"] for kind in ("fp32", "int8"))
    assert np.abs(exact - rounded).max() < 0.03 * np.abs(exact).max()


def test_layers_in_branches_leave_no_float_weight(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    numbers = ",".join(f"{value:.3f}" for value in rng.normal(size=64 * 64))
    model = build(
        f"""g (bool c, float[n,64] x) => (float[n,64] y) {{
            y = If (c) <
                then_branch = yes () => (float[n,64] p)
                    {{ w = Constant <value = float[64,64] {{{numbers}}}> () p = MatMul(x, w) }},
                else_branch = no () => (float[n,64] q) {{ q = Identity(x) }}
            >
        }}"""
    )
    result = apply(WeightInt4(), model).graph
    assert len(ir.to_proto(result).SerializeToString()) < 64 * 64 * 4 / 4
    x = rng.normal(size=(3, 64)).astype(np.float32)
    np.testing.assert_array_equal(run(result, {"c": np.array(False), "x": x})["y"], x)
    found, expected = (run(m, {"c": np.array(True), "x": x})["y"] for m in (result, model))
    assert np.abs(found - expected).max() < 0.3 * np.abs(expected).max()


def test_the_code_tells_configs_apart() -> None:
    configs = [
        WeightInt4(group_size=g, symmetric=s, compute=c, embeddings=e)
        for g in (16, 32) for s in (True, False) for c in ("fp32", "int8") for e in ("int4", "int8", "float")
    ]  # fmt: skip
    assert len({config.code for config in configs}) == len(configs)
