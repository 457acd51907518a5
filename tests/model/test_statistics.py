"""Counts against their definitions, against torch, and on quantized graphs that quantizers made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.model.analysis.grouping import group
from openglm.model.analysis.statistics import Layer, analyse


def parse(text: str) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
    return ir.from_proto(onnx.parser.parse_model(header + text))


def layer(model: ir.Model, op_type: str) -> Layer:
    return next(layer for layer in analyse(model).layers if layer.op_type == op_type)


MACS = {
    "MatMul": ("float[2, 3, 4] a, float[4, 5] b", "y = MatMul(a, b)", 2 * 3 * 5 * 4),
    "Gemm": ("float[4, 3] a, float[5, 4] b", "y = Gemm <transA = 1, transB = 1> (a, b)", 3 * 5 * 4),
    "Conv": (
        "float[1, 4, 8, 8] a, float[6, 2, 3, 3] b",
        "y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (a, b)",
        6 * 4 * 4 * 2 * 9,
    ),
    "ConvTranspose": (
        "float[1, 4, 5, 5] a, float[4, 6, 2, 2] b",
        "y = ConvTranspose <strides = [2, 2]> (a, b)",
        4 * 5 * 5 * 6 * 4,
    ),
    "Einsum": ("float[2, 3, 4] a, float[2, 4, 5] b", 'y = Einsum <equation = "bij,bjk->bik"> (a, b)', 120),
    "LSTM": (
        "float[7, 2, 3] a, float[1, 20, 3] b, float[1, 20, 5] r",
        "y, h = LSTM <hidden_size = 5> (a, b, r)",
        7 * 2 * (20 * 3 + 20 * 5),
    ),
    "MatMulNBits": (
        "float[2, 6, 32] a, uint8[4, 1, 16] b, float[4] s",
        "y = com.microsoft.MatMulNBits <K = 32, N = 4, bits = 4, block_size = 32> (a, b, s)",
        2 * 6 * 4 * 32,
    ),
    "MultiHeadAttention": (
        "float[2, 6, 8] a, float[2, 5, 8] b, float[2, 5, 8] v",
        "y = com.microsoft.MultiHeadAttention <num_heads = 2> (a, b, v)",
        2 * (2 * 6 * 5 * 8),
    ),
    "QLinearConv": (
        "uint8[1, 3, 4, 4] a, float s, uint8 z, int8[8, 3, 1, 1] b, int8 w",
        "y = QLinearConv(a, s, z, b, s, w, s, z)",
        8 * 4 * 4 * 3,
    ),
}


@pytest.mark.parametrize("operator", MACS)
def test_multiply_accumulates_by_definition(operator: str) -> None:
    inputs, body, macs = MACS[operator]
    found = analyse(parse(f"g ({inputs}) => (float[x] y) {{ {body} }}"))
    assert found.macs == macs
    assert not found.shapes.unknown


def test_bytes_and_free_views() -> None:
    model = parse(
        "g (float[2, 8] x) => (float[4, 4] z) <float[8, 8] w = {WEIGHT}, int64[2] s = {4, 4}>".replace(
            "WEIGHT", ",".join(["0"] * 64)
        )
        + " { y = MatMul(x, w)  r = Reshape(y, s)  z = Relu(r) }"
    )
    found = analyse(model)
    product, view, relu = found.layers
    assert (product.weight_bytes, product.read_bytes, product.write_bytes) == (256, 256 + 64, 64)
    assert not view.runs
    assert (relu.other_ops, relu.read_bytes, relu.write_bytes) == (16, 64, 64)
    assert found.parameters == 64
    assert found.weight_bytes == 256 + 16
    assert found.operators[0].share == 1.0


def test_a_gather_reads_the_rows_it_takes() -> None:
    model = parse("g (int64[1, 3] i, float[1000, 8] table) => (float[a, b, c] y) { y = Gather(table, i) }")
    assert layer(model, "Gather").read_bytes == 3 * 8 * 4


def test_half_precision() -> None:
    model = parse("g (float16[2, 8] x, float16[8, 8] w) => (float16[2, 8] y) { y = MatMul(x, w) }")
    assert layer(model, "MatMul").precision == "fp16"


def test_the_worse_branch_and_the_rounds_of_a_loop_count() -> None:
    model = parse(
        """g (bool c, float[4, 4] x) => (float[4, 4] y, float[4, 4] last) {
          y = If (c) <
            then_branch = t () => (float[4, 4] u) { u = Relu(x) },
            else_branch = e () => (float[4, 4] v) { v = MatMul(x, x) }>
          five = Constant <value_int = 5> ()
          true = Constant <value = bool {1}> ()
          last = Loop (five, true, x) <
            body = b (int64 i, bool k, float[4, 4] s) => (bool k2, float[4, 4] s2) {
              k2 = Identity(k)
              s2 = MatMul(s, s)
            }>
        }"""
    )
    assert analyse(model).macs == 64 + 5 * 64


def test_an_unknown_operator_costs_its_bytes() -> None:
    model = parse("g (float[8] x) => (float[8] y) { y = com.microsoft.Mystery(x) }")
    found = analyse(model)
    assert found.unknown_operators == ("com.microsoft::Mystery",)
    assert (found.layers[0].read_bytes, found.layers[0].write_bytes) == (32, 32)


def test_weights_are_never_read(tmp_path: Path) -> None:
    model = parse("g (float[2, 8] x, float[8, 8] w) => (float[2, 8] y) { y = MatMul(x, w) }")
    weight = model.graph.inputs.pop()
    missing = ir.ExternalTensor(
        "gone.bin", 0, 256, ir.DataType.FLOAT, shape=ir.Shape([8, 8]), name="w", base_dir=tmp_path
    )
    weight.const_value = missing
    model.graph.register_initializer(weight)
    found = analyse(model)
    assert (found.parameters, found.weight_bytes, found.macs) == (64, 256, 2 * 8 * 8)


class _Net:
    """A small convolutional net and a small encoder of torch's own modules."""

    @staticmethod
    def convolutional(torch: Any) -> Any:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )

    @staticmethod
    def encoder(torch: Any) -> Any:
        return torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)


def _macs_by_torch(torch: Any, module: Any, example: Any) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    torch.backends.mha.set_fastpath_enabled(False)  # neither fused encoder nor fused attention is counted
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(example)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("kind", ["convolutional", "encoder"])
def test_counts_agree_with_torch(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="torch counts the same model")
    module = getattr(_Net, kind)(torch).eval()
    for parameter in module.parameters():  # the exporter drops a bias of zeros
        torch.nn.init.normal_(parameter)
    example = torch.randn(1, 3, 32, 32) if kind == "convolutional" else torch.randn(1, 10, 32)
    program = torch.onnx.export(module, (example,), dynamo=True, optimize=False, verbose=False)
    found = analyse(program.model)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.macs == _macs_by_torch(torch, module, example)
    named = [layer.name for layer in found.layers if layer.macs]
    assert any("linear1" in name for name in named) if kind == "encoder" else "8" in named


def _saved(path: Path, body: str, **weights: tuple[int, ...]) -> Path:
    """A float model with random weights of the given shapes, as a file."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {body}')
    rng = np.random.default_rng(0)
    for name, size in weights.items():
        array = rng.standard_normal(size).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


MLP = "g (float[batch, 64] x) => (float[batch, 32] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"


def test_dynamic_quantization_runs_in_int8_with_its_rescaling_fused(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source = _saved(tmp_path / "f.onnx", MLP, w=(64, 64), v=(64, 32))
    quantize_dynamic(source, tmp_path / "q.onnx")
    before, after = analyse(ir.load(source)), analyse(ir.load(tmp_path / "q.onnx"))
    assert after.macs == before.macs
    assert after.parameters == before.parameters == 64 * 64 + 64 * 32
    assert after.weight_bytes < 0.3 * before.weight_bytes
    assert {layer.precision for layer in after.layers if layer.macs} == {"int8"}
    assert not any(layer.runs for layer in after.layers if layer.op_type == "Cast")


def test_weight_only_quantization_computes_in_float(tmp_path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    source = _saved(tmp_path / "f.onnx", MLP, w=(64, 64), v=(64, 32))
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
    before, after = analyse(ir.load(source)), analyse(ir.load(tmp_path / "q.onnx"))
    assert (after.macs, after.parameters) == (before.macs, before.parameters)
    assert {layer.precision for layer in after.layers if layer.macs} == {"int4w"}
    assert after.weight_bytes == before.weight_bytes // 8 + before.weight_bytes // 32  # and a scale each 32


def test_what_is_made_of_weights_alone_costs_nothing_at_a_call(tmp_path: Path) -> None:
    plain = "g (float[4, 64] x) => (float[4, 32] y) { y = MatMul(x, w) }"
    turned = "g (float[4, 64] x) => (float[4, 32] y) { t = Transpose <perm = [1, 0]> (v) y = MatMul(x, t) }"
    before = analyse(ir.load(_saved(tmp_path / "a.onnx", plain, w=(64, 32))))
    after = analyse(ir.load(_saved(tmp_path / "b.onnx", turned, v=(32, 64))))
    (product,) = before.layers
    transpose, same = after.layers
    assert not transpose.runs
    assert (same.macs, same.read_bytes, same.write_bytes) == (
        product.macs, product.read_bytes, product.write_bytes
    )  # fmt: skip
    fed = "g (float[4, 64] x, float[32, 64] v) => (float[4, 32] y) { t = Transpose(v) y = MatMul(x, t) }"
    assert analyse(ir.load(_saved(tmp_path / "c.onnx", fed))).layers[0].runs


def test_a_scale_and_a_bias_run_inside_the_product(tmp_path: Path) -> None:
    body = """g (float[4, 64] x, float[4, 32] z) => (float[4, 32] y) {
        h = MatMul(x, w)  s = Mul(h, scale)  b = Add(s, bias)  y = Mul(b, z)
    }"""
    found = analyse(ir.load(_saved(tmp_path / "m.onnx", body, w=(64, 32), scale=(32,), bias=(32,))))
    assert [layer.runs for layer in found.layers] == [True, False, False, True]


def test_static_quantization_hides_its_conversions(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    body = (
        "g (float[1, 3, 8, 8] x) => (float[1, 8, 8, 8] y)"
        " { c = Conv <pads = [1, 1, 1, 1]> (x, w)  r = Relu(c)  y = Conv(r, v) }"
    )
    source = _saved(tmp_path / "f.onnx", body, w=(8, 3, 3, 3), v=(8, 8, 1, 1))
    quantize_static(source, tmp_path / "q.onnx", Reader(), weight_type=QuantType.QInt8)
    before, after = analyse(ir.load(source)), analyse(ir.load(tmp_path / "q.onnx"))
    assert (after.macs, after.parameters) == (before.macs, before.parameters)
    assert {layer.precision for layer in after.layers if layer.macs} == {"int8"}
    running = [layer.op_type for layer in after.layers if layer.runs]
    # The image is quantized once on the way in and the result dequantized once on the way out.
    assert running == ["QuantizeLinear", "Conv", "Conv", "DequantizeLinear"]
    second = [layer for layer in after.layers if layer.macs][1]
    assert second.read_bytes < 8 * 8 * 8 + 8 * 8 + 100  # int8 activations and weights, and their scales
    assert second.write_bytes == 8 * 8 * 8


def _plain(name: str, macs: int, node: str = "n") -> Layer:
    return Layer(name, node, "MatMul", macs, 0, 0, 4, 4, "fp32", (1,))


def test_groups_are_as_fine_as_there_is_room() -> None:
    layers = [_plain(f"m.layer.{i}.{part}", 100 * (i + 1)) for i in range(3) for part in "ab"]
    assert [name for name, _ in group(layers, 3)] == ["m.layer.0", "m.layer.1", "m.layer.2"]
    assert len(group(layers, 6)) == 6
    assert group(layers, 1) == [("m.layer", layers)]
    nameless = [_plain(f"node{i}", i, f"node{i}") for i in range(10)]
    assert [name for name, _ in group(nameless, 3)] == ["node8", "node9", "8 others"]
    for most in range(1, 12):
        for case in (layers, nameless):
            groups = group(case, most)
            assert len(groups) <= most
            assert sum(len(members) for _, members in groups) == len(case)
