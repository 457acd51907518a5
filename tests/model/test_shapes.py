"""Shapes are what ONNX Runtime really makes, and what cannot be known is said, not guessed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from openglm.errors import InputError
from openglm.model.analysis.shapes import parse_dims, resolve


def parse(text: str, opset: int = 20) -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    return ir.from_proto(onnx.parser.parse_model(header + text))


def shape(model: ir.Model, name: str, **dims: int) -> tuple[int, ...]:
    return resolve(model, dims).by_name[name].shape


def runtime_arrays(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every intermediate value, as ONNX Runtime computes it without any optimization."""
    names = [name for node in proto.graph.node for name in node.output if name]
    kept = {output.name: output for output in proto.graph.output}
    del proto.graph.output[:]
    proto.graph.output.extend(kept.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_parse_dims() -> None:
    assert parse_dims("batch=1, sequence=128") == {"batch": 1, "sequence": 128}
    assert parse_dims("") == {}


@pytest.mark.parametrize(
    "text", ["batch", "batch=", "=1", "batch=x", "batch=-1", "batch=0", "a=1,a=2", "a=1 b=2"]
)
def test_nonsense_dims_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_dims(text)


def test_defaults_by_name_and_by_place() -> None:
    model = parse(
        "g (float[batch, 3, height, w] image, int64[n, tokens] ids, int64[s0, s1] mask, float[q] z)"
        " => (float[q] y) { y = Relu(z) }"
    )
    dims = {"batch": 1, "height": 224, "w": 224, "n": 1, "tokens": 128, "s0": 1, "s1": 128, "q": 1}
    assert resolve(model).dims == dims


def test_a_sum_of_dimensions_follows_its_terms() -> None:
    model = parse("g (float[past, len] a) => (float[x] y) { y = Relu(a) }")
    model.graph.inputs[0].shape = ir.Shape(["past_length + length", "length"])
    assert shape(model, "a", past_length=10, length=3) == (13, 3)


def test_an_unknown_dimension_names_those_that_exist() -> None:
    model = parse("g (float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }")
    with pytest.raises(InputError, match="batch"):
        resolve(model, {"batc": 2})
    with pytest.raises(InputError, match="at least 1"):
        resolve(model, {"batch": 0})


def test_computed_shapes_are_followed() -> None:
    model = parse(
        """g (float[batch, seq, 8] x) => (float[a, b, c, d] y) {
          s = Shape(x)
          two = Constant <value = int64[1] {2}> ()
          four = Constant <value_ints = [-1, 4]> ()
          head = Constant <value_ints = [0]> ()
          end = Constant <value_ints = [2]> ()
          front = Slice(s, head, end)
          target = Concat <axis = 0> (front, four)
          y = Reshape(x, target)
          n = Size(y)
          zero = Constant <value_int = 0> ()
          one = Constant <value_int = 1> ()
          count = Range(zero, n, one)
        }"""
    )
    found = resolve(model, {"batch": 2, "seq": 5})
    assert found.by_name["y"].shape == (2, 5, 2, 4)
    assert found.by_name["count"].shape == (80,)
    assert not found.unknown


def test_what_data_decides_is_unknown_and_named() -> None:
    model = parse("g (float[4] x) => (float[k] y) { i = NonZero(x)  t = Transpose(i)  y = Foo(t) }")
    found = resolve(model)
    assert set(found.unknown) == {"i", "t", "y"}
    assert found.unknown_operators == ("ai.onnx::Foo",)


def test_what_the_file_says_stands_in_for_an_unknown_operator() -> None:
    model = parse("g (float[batch, 4] x) => (float[batch, 7] y) { y = com.microsoft.Mystery(x) }")
    found = resolve(model, {"batch": 3})
    assert found.by_name["y"].shape == (3, 7)
    assert found.unknown_operators == ("com.microsoft::Mystery",)


def test_control_flow() -> None:
    model = parse(
        """g (bool c, float[2, 3] x) => (float[a, b] y, float[p, q] stacked, float[m, n] last) {
          y = If (c) <
            then_branch = t () => (float[2, 3] u) { u = Relu(x) },
            else_branch = e () => (float[4, 3] v) { v = Concat <axis = 0> (x, x) }>
          five = Constant <value_int = 5> ()
          true = Constant <value = bool {1}> ()
          last, stacked = Loop (five, true, x) <
            body = b (int64 i, bool k, float[2, 3] s) => (bool k2, float[2, 3] s2, float[2, 3] o) {
              k2 = Identity(k)
              s2 = Relu(s)
              o = Neg(s)
            }>
        }"""
    )
    found = resolve(model).by_name
    assert found["y"].shape == (4, 3)  # the larger branch
    assert found["last"].shape == (2, 3)
    assert found["stacked"].shape == (5, 2, 3)


def test_functions_are_seen_through() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "local" : 1]>
      g (float[b, 4] x) => (float[b, 8] y) { y = local.twice(x) }
      <domain: "local", opset_import: ["" : 20]> twice (a) => (r) { r = Concat <axis = -1> (a, a) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert shape(model, "y", b=3) == (3, 8)
    assert len(model.functions) == 1


def test_the_graph_is_not_changed() -> None:
    model = parse("g (float[batch, 4] x) => (float[batch, d] y) { s = Shape(x)  y = Expand(x, s) }")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    resolve(model, {"batch": 5})
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


CONTRIB = {
    "MultiHeadAttention": (
        "g (float[2, 6, 8] q, float[2, 5, 8] k, float[2, 5, 8] v) => (float[a, b, c] y)"
        " { y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v) }"
    ),
    "SkipLayerNormalization": (
        "g (float[2, 6, 8] x, float[2, 6, 8] r, float[8] w) => (float[a, b, c] y)"
        " { y, m, i, s = com.microsoft.SkipLayerNormalization (x, r, w) }"
    ),
    "BiasGelu": "g (float[2, 8] x, float[8] b) => (float[n, m] y) { y = com.microsoft.BiasGelu (x, b) }",
    "FastGelu": "g (float[2, 8] x) => (float[n, m] y) { y = com.microsoft.FastGelu (x) }",
    "FusedMatMul": (
        "g (float[2, 8, 3] x, float[2, 8, 5] w) => (float[n, m, k] y)"
        " { y = com.microsoft.FusedMatMul <transA = 1> (x, w) }"
    ),
    "DynamicQuantizeMatMul": (
        "g (float[2, 6, 8] x, int8[8, 4] w, float[1] s) => (float[n, m, k] y)"
        " { y = com.microsoft.DynamicQuantizeMatMul (x, w, s) }"
    ),
    "MatMulNBits": (
        "g (float[2, 6, 32] x, uint8[4, 1, 16] w, float[4] s) => (float[n, m, k] y)"
        " { y = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 4, block_size = 32> (x, w, s) }"
    ),
    "GatherBlockQuantized": (
        "g (uint8[10, 16] w, int64[2, 3] i, float[10, 2] s) => (float[n, m, k] y) { y ="
        " com.microsoft.GatherBlockQuantized <bits = 4, block_size = 16, quantize_axis = 1> (w, i, s) }"
    ),
    "QLinearAdd": (
        "g (uint8[2, 1, 4] a, float t, uint8 z, uint8[3, 4] b) => (uint8[n, m, k] y)"
        " { y = com.microsoft.QLinearAdd (a, t, z, b, t, z, t, z) }"
    ),
    "QLinearConcat": (
        "g (float t, uint8 z, uint8[2, 4] a, uint8[3, 4] b) => (uint8[n, m] y)"
        " { y = com.microsoft.QLinearConcat <axis = 0> (t, z, a, t, z, b, t, z) }"
    ),
    "QLinearGlobalAveragePool": (
        "g (uint8[2, 3, 4, 4] a, float t, uint8 z) => (uint8[n, m, h, w] y)"
        " { y = com.microsoft.QLinearGlobalAveragePool (a, t, z, t, z) }"
    ),
}


@pytest.mark.parametrize("operator", CONTRIB)
def test_contributed_operators_match_the_runtime(operator: str) -> None:
    model = parse(CONTRIB[operator])
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        feeds[str(value.name)] = np.ones(value.shape.numpy(), value.dtype.numpy())
    arrays = runtime_arrays(ir.to_proto(model), feeds)
    found = resolve(model)
    for name, array in arrays.items():
        if array is not None and array.size:
            assert found.by_name[name].shape == array.shape, name
            assert found.by_name[name].dtype == ir.DataType.from_numpy(array.dtype), name


def test_every_value_of_an_exported_encoder_is_what_the_runtime_makes(encoder: onnx.ModelProto) -> None:
    dims = {"batch": 2, "sequence": 11}
    found = resolve(ir.from_proto(encoder), dims)
    assert not found.unknown
    feeds = {value.name: np.ones((2, 11), np.int64) for value in encoder.graph.input}
    arrays = runtime_arrays(encoder, feeds)
    assert len(arrays) > 50
    for name, array in arrays.items():
        assert found.by_name[name].shape == array.shape, name
        assert found.by_name[name].dtype == ir.DataType.from_numpy(array.dtype), name


@pytest.fixture
def encoder() -> onnx.ModelProto:
    torch = pytest.importorskip("torch", reason="torch exports the encoder")
    transformers = pytest.importorskip("transformers", reason="transformers makes the encoder")
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    ids = torch.ones((2, 7), dtype=torch.int64)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=512)
    axes = {0: batch, 1: sequence}
    program = torch.onnx.export(
        bert,
        (ids, ids),
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        opset_version=20,
        verbose=False,
    )
    proto: onnx.ModelProto = program.model_proto
    return proto
