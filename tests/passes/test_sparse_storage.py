"""Compressed weights are the same weights, bit for bit, once an engine has loaded them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fp16 import Half
from openglm.passes.fuse import Fuse
from openglm.passes.sparse_storage import SparseStorage
from openglm.passes.static_wi8_ai8 import StaticInt8
from openglm.passes.wi4_afp32 import WeightInt4
from openglm.passes.wi8_afp32 import WeightInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]

PRODUCT = "g (float[n,64] x) => (float[n,96] y) { y = MatMul(x, w) }"


def sparse(rng: np.random.Generator, shape: tuple[int, ...], sparsity: float = 0.9) -> np.ndarray:
    weight = rng.normal(size=shape).astype(np.float32)
    return np.where(rng.random(shape) < sparsity, np.float32(0), weight)


def size(model: ir.Model) -> int:
    return len(ir.to_proto(model).SerializeToString())


def loaded(model: ir.Model, path: Path) -> list[tuple[str, list[tuple[int, ...]]]]:
    """The operators that ONNX Runtime runs after its optimizations, with the shapes of their constants."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    content = ir.to_proto(model).SerializeToString()
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path).graph
    shapes = {item.name: tuple(item.dims) for item in graph.initializer}
    return [(node.op_type, [shapes[name] for name in node.input if name in shapes]) for node in graph.node]


# Rest, sparsity, and how often an isolated element follows a run of many that are all the same.
patterns = st.tuples(
    st.sampled_from([np.float32, np.float16, np.int8, np.uint8]),
    st.integers(4096, 9000),
    st.sampled_from([0.0, 0.5, 0.8, 0.9, 0.99, 0.9995, 1.0]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 128]),
)


@given(patterns)
@settings(max_examples=25, deadline=None)
def test_every_pattern_comes_back_bit_for_bit(
    build: Build, run: Run, define: Run, pattern: tuple[type, int, float, int, int]
) -> None:
    kind, count, sparsity, seed, rest = pattern
    rng = np.random.default_rng(seed)
    weight = np.frombuffer(rng.bytes(count * np.dtype(kind).itemsize), kind).copy()
    weight[rng.random(count) < sparsity] = rest if kind is np.uint8 else 0
    name = {np.float32: "float", np.float16: "float16"}.get(kind, np.dtype(kind).name)
    model = build(f"g (int64[n] i) => ({name}[n] y) {{ y = Gather(w, i) }}", w=weight)
    result = SparseStorage().apply(model, Context())
    if sparsity != 0.5:
        assert result.changed == (sparsity > 0.5)
    feeds = {"i": np.arange(count)}
    for engine in (run, define):
        assert engine(result.graph, feeds)["y"].tobytes() == weight.tobytes()


@pytest.mark.parametrize("places", [[], [0], [255], [256], [257], [511, 512], [0, 5999], [5999]])
def test_long_gaps(build: Build, run: Run, apply: Apply, places: list[int]) -> None:
    weight = np.zeros(6000, np.float32)
    weight[places] = np.arange(1, len(places) + 1)
    result = apply(SparseStorage(), build("g (int64[n] i) => (float[n] y) { y = Gather(w, i) }", w=weight))
    assert size(result.graph) < 1500
    np.testing.assert_array_equal(run(result.graph, {"i": np.arange(6000)})["y"], weight)


@pytest.mark.parametrize(
    ("sparsity", "kind", "share"),
    [(0.9, np.float32, 1 / 7), (0.9, np.float16, 1 / 6), (0.9, np.int8, 1 / 4.5), (0.5, np.float32, 0.55)],
)
def test_the_share_of_the_dense_size(
    build: Build, apply: Apply, rng: np.random.Generator, sparsity: float, kind: type, share: float
) -> None:
    weight = (sparse(rng, (512, 512), sparsity) * 40).clip(-127, 127).astype(kind)
    name = {np.float32: "float", np.float16: "float16"}.get(kind, np.dtype(kind).name)
    model = build(f"g (int64[n] i) => ({name}[n,512] y) {{ y = Gather(w, i) }}", w=weight)
    assert size(apply(SparseStorage(), model).graph) < share * size(model)


@pytest.mark.parametrize(
    "step", [None, Half(), WeightInt8(), DynamicInt8(weight_bits=7), StaticInt8(weight_bits=7), WeightInt4()],
    ids=lambda step: "dense" if step is None else step.code,
)  # fmt: skip
@pytest.mark.parametrize("sparsity", [0.65, 0.95])
def test_a_session_has_the_dense_weights(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, tmp_path: Path,
    step: GraphPass | None, sparsity: float,
) -> None:  # fmt: skip
    model = build(
        "g (float[n,8,12,12] x) => (float[n,40] y) { c = Conv <pads=[1,1,1,1]> (x, k) r = Relu(c)"
        " p = GlobalAveragePool(r) f = Flatten(p) h = MatMul(f, v) e = Erf(h)"
        " y = Gemm <transB=1> (e, w, b) }",
        k=sparse(rng, (64, 8, 3, 3), sparsity), v=sparse(rng, (64, 128), sparsity),
        w=sparse(rng, (40, 128), sparsity), b=np.ones(40, np.float32),
    )  # fmt: skip
    batches = [{"x": rng.normal(size=(4, 8, 12, 12)).astype(np.float32)} for _ in range(2)]
    dense = model if step is None else apply(step, model, batches).graph
    result = apply(SparseStorage(), dense)
    assert result.changed
    assert size(result.graph) < 0.9 * size(dense)
    assert loaded(result.graph, tmp_path / "a.onnx") == loaded(dense, tmp_path / "b.onnx")
    for optimized in (True, False):
        before, after = (run(m, batches[0], optimized=optimized)["y"] for m in (dense, result.graph))
        assert after.tobytes() == before.tobytes()


def test_weights_read_in_a_branch(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, tmp_path: Path
) -> None:
    weight = sparse(rng, (64, 96))
    model = build(
        "g (float[n,64] x, bool b) => (float[n,96] y) { y = If(b) <"
        "then_branch = t () => (float[n,96] p) { p = MatMul(x, w) },"
        "else_branch = e () => (float[n,96] q) { m = Neg(w) q = MatMul(x, m) }> }",
        w=weight,
    )
    result = apply(SparseStorage(), model)
    assert result.changed
    assert [kind for kind, _ in loaded(result.graph, tmp_path / "a.onnx")] == ["If"]
    x = rng.normal(size=(3, 64)).astype(np.float32)
    for branch in (True, False):
        feeds = {"x": x, "b": np.array(branch)}
        assert run(result.graph, feeds)["y"].tobytes() == run(model, feeds)["y"].tobytes()


def test_fuse_joins_before_and_storage_comes_last(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,96] y, float[n,96] z) { y = MatMul(x, v) z = MatMul(x, w) }",
        v=sparse(rng, (64, 96)), w=sparse(rng, (64, 96)),
    )  # fmt: skip
    fused = apply(Fuse(), model).graph
    result = apply(SparseStorage(), fused)
    feeds = {"x": rng.normal(size=(3, 64)).astype(np.float32)}
    assert size(result.graph) < 0.3 * size(model)
    for name, found in run(result.graph, feeds).items():
        assert found.tobytes() == run(fused, feeds)[name].tobytes()


def test_what_would_not_pay_is_left_alone(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    for weight in (sparse(rng, (64, 96), 0.05), sparse(rng, (32, 96), 0.99)):
        text = PRODUCT.replace("64", str(len(weight)))
        result = apply(SparseStorage(), build(text, w=weight))
        assert not result.changed
        assert result.notes == ("No weight has zeros enough for compressed storage to pay.",)


def test_a_weight_that_is_an_output_stays_one(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,96] y, float[64,96] w) { y = MatMul(x, w) }", w=sparse(rng, (64, 96))
    )
    assert not apply(SparseStorage(), model).changed


def test_applied_twice_the_second_finds_nothing(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    once = apply(SparseStorage(), build(PRODUCT, w=sparse(rng, (64, 96))))
    assert once.changed
    assert "0.0246 MB take 0.00" in once.notes[0]
    assert not apply(SparseStorage(), once.graph).changed
