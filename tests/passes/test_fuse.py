"""Fusing changes no result, and joins only what may be joined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.passes.contract import Applied
from openglm.passes.fuse import Fuse

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


def weights(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def kinds(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in model.graph.all_nodes())


@pytest.fixture
def same(apply: Apply, run: Run, rng: np.random.Generator) -> Callable[[ir.Model], ir.Model]:
    """Fuse, and see that every output is what it was."""

    def fused(model: ir.Model) -> ir.Model:
        result = apply(Fuse(), model).graph
        feeds = {
            str(value.name): np.array(True)
            if value.dtype == ir.DataType.BOOL
            else rng.normal(size=[2 if not isinstance(dim, int) else dim for dim in value.shape]).astype(
                np.float32
            )
            for value in model.graph.inputs
        }
        for flag in (True, False):
            feeds |= {name: np.array(flag) for name, array in feeds.items() if array.dtype == bool}
            before, after = run(model, feeds), run(result, feeds)
            assert list(before) == list(after)
            for name, array in before.items():
                np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-5)
        return result

    return fused


QKV = """g (float[n,s,8] x) => (float[n,s,s] y, float[n,s,4] v) {{
    {0} qk = MatMul(q, t) y = Softmax(qk)
}}"""
TRANSPOSE = "t = Transpose <perm=[0,2,1]> (k)"


def test_query_key_and_value_become_one_product(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    body = (
        "a = MatMul(x, wq) q = Add(a, bq) b = MatMul(x, wk) k = Add(bk, b) c = MatMul(x, wv) v = Add(c, bv) "
    )
    shapes = {f"w{i}": (8, 4) for i in "qkv"} | {f"b{i}": (4,) for i in "qkv"}
    result = same(build(QKV.format(body + TRANSPOSE), **weights(rng, **shapes)))
    assert kinds(result) == ["Add", "MatMul", "MatMul", "Softmax", "Split", "Transpose"]
    assert not {"wq", "bk"} & set(result.graph.initializers)


def test_biases_of_two_kinds_are_not_joined(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    body = "a = MatMul(x, wq) q = Add(a, bq) k = MatMul(x, wk) v = Identity(k) "
    result = same(build(QKV.format(body + TRANSPOSE), **weights(rng, wq=(8, 4), wk=(8, 4), bq=(4,))))
    assert "Split" not in kinds(result)


@pytest.mark.parametrize("bias", [(1,), (1, 4), (2, 4), ()])
def test_a_bias_that_is_broadcast_is_not_dropped(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator, bias: tuple[int, ...]
) -> None:
    model = build(
        "g (float[2,8] x) => (float[2,4] y, float[2,4] z) { y = Gemm(x, a, c) z = MatMul(x, b) }",
        **weights(rng, a=(8, 4), b=(8, 4), c=bias),
    )
    assert "Split" not in kinds(same(model))


def test_a_bias_that_is_fed_is_not_dropped(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        "g (float[2,8] x, float[4] c) => (float[2,4] y, float[2,4] z) { y = Gemm(x, a, c) z = MatMul(x, b) }",
        **weights(rng, a=(8, 4), b=(8, 4)),
    )
    same(model)


def test_joined_layers_may_be_outputs_and_gemms(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,8] x) => (float[n,4] y, float[n,6] z, float[n,2] u) {
            y = Gemm <transB=1> (x, a, c) z = Gemm (x, b, d) m = MatMul(x, e) u = Add(m, f)
        }""",
        **weights(rng, a=(4, 8), b=(8, 6), c=(4,), d=(6,), e=(8, 2), f=(2,)),
    )
    assert kinds(same(model)) == ["Add", "MatMul", "Split"]


def test_a_product_that_is_an_output_as_well_keeps_its_value_without_bias(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        "g (float[n,8] x) => (float[n,4] y, float[n,4] z, float[n,4] u)"
        " { y = MatMul(x, a) z = Add(y, c) u = MatMul(x, b) }",
        **weights(rng, a=(8, 4), b=(8, 4), c=(4,)),
    )
    assert kinds(same(model)) == ["Add", "MatMul", "Split"]


def test_layers_of_different_graphs_are_not_joined(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        """g (bool c, float[n,8] x) => (float[n,4] y, float[n,4] z) {
            z = MatMul(x, a)
            y = If (c) <
                then_branch = yes () => (float[n,4] p)
                    { p1 = MatMul(x, a) p2 = MatMul(x, b) p = Add(p1, p2) },
                else_branch = no () => (float[n,4] q) { q = Identity(z) }
            >
        }""",
        **weights(rng, a=(8, 4), b=(8, 4)),
    )
    assert kinds(same(model)).count("Split") == 1


def test_shared_layers_are_joined_once(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,8] x) => (float[n,8] y) {
            a = MatMul(x, w) b = MatMul(x, v) h = Mul(a, b)
            c = MatMul(h, w) d = MatMul(h, v) y = Mul(c, d)
        }""",
        **weights(rng, w=(8, 8), v=(8, 8)),
    )
    result = same(model)
    assert kinds(result).count("Split") == 2
    assert sum(value.const_value.size for value in result.graph.initializers.values()) == 128 + 2


def test_identities_at_outputs_stay_correct(
    build: Build, same: Callable[[ir.Model], ir.Model], rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,8] x) => (float[n,8] y, float[n,8] z, float[n,8] u, float[8] w_out) {
            i = Identity(x) y = Relu(i) z = Identity(y) u = Identity(x) w_out = Identity(w)
        }""",
        **weights(rng, w=(8,)),
    )
    assert kinds(same(model)) == ["Identity", "Identity", "Identity", "Relu"]


def test_equal_expressions_are_computed_once_also_at_outputs(
    build: Build, same: Callable[[ir.Model], ir.Model]
) -> None:
    model = build("g (float[n,8] x) => (float[n,8] y, float[n,8] z) { y = Exp(x) z = Exp(x) }")
    assert kinds(same(model)) == ["Exp", "Identity"]


def test_nothing_to_fuse_is_said(build: Build, apply: Apply) -> None:
    result = apply(Fuse(), build("g (float[n] x) => (float[n] y) { y = Relu(x) }"))
    assert not result.changed
    assert result.notes == ()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_graphs_compute_the_same(
    build: Build, same: Callable[[ir.Model], ir.Model], data: st.DataObject
) -> None:
    lines, values, arrays = [], ["x"], {}
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    for index in range(data.draw(st.integers(1, 8))):
        kind = data.draw(st.sampled_from(["MatMul", "Biased", "Gemm", "Relu", "Identity", "Add"]))
        source, other = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        w, b = data.draw(st.sampled_from(["w0", "w1", "w2"])), data.draw(st.sampled_from(["b0", "b1"]))
        transposed = data.draw(st.sampled_from([0, 1]))
        lines += {
            "MatMul": [f"v{index} = MatMul({source}, {w})"],
            "Biased": [f"p{index} = MatMul({source}, {w})", f"v{index} = Add(p{index}, {b})"],
            "Gemm": [f"v{index} = Gemm <transB={transposed}> ({source}, {w}, {b})"],
            "Add": [f"v{index} = Add({source}, {other})"],
        }.get(kind, [f"v{index} = {kind}({source})"])
        values.append(f"v{index}")
    outputs = data.draw(st.lists(st.sampled_from(values[1:]), min_size=1, max_size=3, unique=True))
    arrays = {name: rng.normal(size=(4, 4)).astype(np.float32) / 2 for name in ("w0", "w1", "w2")}
    arrays |= {name: rng.normal(size=4).astype(np.float32) for name in ("b0", "b1")}
    declared = ", ".join(f"float[n,4] {name}" for name in outputs)
    same(build(f"g (float[n,4] x) => ({declared}) {{ {' '.join(lines)} }}", **arrays))
