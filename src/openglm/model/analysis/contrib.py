"""Shape rules for the operators of `com.microsoft` that quantizers and fusions put into a graph.

A rule takes a node and the (shape, type) of its inputs and gives those of its outputs. It may
assume that what it reads is known: where that is not so, it fails and its outputs stay unknown.
Specification: ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Info = tuple[tuple[int, ...], ir.DataType]
Rule = Callable[[ir.Node, Sequence[Any]], list[Info | None]]


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    return node.attributes[name].as_int() if name in node.attributes else default


def _same(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    return [tuple(inputs[0])]


def _matmul_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return (*np.broadcast_shapes(a[:-2], b[:-2]), *a[-2:-1], b[-1])


def _matmul_to_float(scale: int) -> Rule:
    """A product whose result has the type of the scale at input `scale`."""
    return lambda node, inputs: [(_matmul_shape(inputs[0].shape, inputs[1].shape), inputs[scale].dtype)]


def _matmul_n_bits(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    return [((*inputs[0].shape[:-1], attribute(node, "N", 0)), inputs[0].dtype)]


def _fused_matmul(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    shapes = []
    for info, name in zip(inputs[:2], ("transA", "transB"), strict=True):
        swap = attribute(node, name, 0)
        shapes.append((*info.shape[:-2], info.shape[-1], info.shape[-2]) if swap else info.shape)
    return [(_matmul_shape(shapes[0], shapes[1]), inputs[0].dtype)]


def _q_gemm(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    rows = inputs[0].shape[-1 if attribute(node, "transA", 0) else 0]
    columns = inputs[3].shape[0 if attribute(node, "transB", 0) else -1]
    quantized = len(inputs) > 8 and inputs[8] is not None
    return [((rows, columns), inputs[8].dtype if quantized else inputs[1].dtype)]


def _q_linear_binary(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    return [(tuple(np.broadcast_shapes(inputs[0].shape, inputs[3].shape)), inputs[0].dtype)]


def _q_linear_concat(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    parts = inputs[2::3]
    shape = list(parts[0].shape)
    axis = attribute(node, "axis", 0)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return [(tuple(shape), parts[0].dtype)]


def _q_linear_global_pool(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    shape, ones = inputs[0].shape, (1,) * (len(inputs[0].shape) - 2)
    last = attribute(node, "channels_last", 0)
    return [((shape[0], *ones, shape[-1]) if last else (*shape[:2], *ones), inputs[0].dtype)]


def _gather_block_quantized(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    data, indices, scales = inputs[:3]
    axis = attribute(node, "gather_axis", 0) % len(data.shape)
    shape = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]
    if data.dtype == ir.DataType.UINT8:  # several values share a byte of the last axis
        shape[-1] *= 8 // attribute(node, "bits", 4)
    return [(tuple(shape), scales.dtype)]


def _multi_head_attention(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    query, key, value = (*inputs, None, None)[:3]
    batch, length = query.shape[:2]
    heads = attribute(node, "num_heads", 1)
    if len(query.shape) == 5:  # packed: batch, length, heads, 3, head size
        width, value_width, keys = (query.shape[2] * query.shape[4],) * 2 + (length,)
    else:
        width = query.shape[2]
        if value is None:  # key and value packed: batch, length, heads, 2, head size
            value_width, keys = width, key.shape[1]
        elif len(value.shape) == 4:  # batch, heads, length, head size
            value_width, keys = value.shape[1] * value.shape[3], value.shape[2]
        else:
            value_width, keys = value.shape[2], value.shape[1]
    past = inputs[6].shape[2] if len(inputs) > 6 and inputs[6] is not None else 0
    present = [((batch, heads, past + keys, size // heads), query.dtype) for size in (width, value_width)]
    return [((batch, length, value_width), query.dtype), *present]


def _attention(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    sizes = node.attributes.get("qkv_hidden_sizes")
    width = int(sizes.as_ints()[2]) if sizes else inputs[1].shape[1] // 3
    scale = inputs[3].dtype if node.op_type == "QAttention" else inputs[0].dtype
    return [((*inputs[0].shape[:2], width), scale)]


def _group_query_attention(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    query, key = inputs[:2]
    heads, groups = attribute(node, "num_heads", 1), attribute(node, "kv_num_heads", 1)
    batch, length, width = query.shape
    size = width // heads if key is not None else width // (heads + 2 * groups)
    past = inputs[3].shape[2] if len(inputs) > 3 and inputs[3] is not None else 0
    present = ((batch, groups, past + length, size), query.dtype)
    return [((batch, length, heads * size), query.dtype), present, present]


def _skip_layer_norm(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    (shape, dtype), statistic = inputs[0], ((*inputs[0].shape[:-1], 1), ir.DataType.FLOAT)
    return [(shape, dtype), statistic, statistic, (shape, dtype)]


def _embed_layer_norm(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    ids, table = inputs[0], inputs[2]
    shape = (*ids.shape, table.shape[1])
    return [(shape, table.dtype), ((ids.shape[0],), ir.DataType.INT32), (shape, table.dtype)]


def _quantize(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    point = inputs[2].dtype if len(inputs) > 2 and inputs[2] is not None else ir.DataType.UINT8
    return [(inputs[0].shape, point)]


def _dequantize(node: ir.Node, inputs: Sequence[Any]) -> list[Info | None]:
    return [(inputs[0].shape, inputs[1].dtype)]


_MICROSOFT: dict[str, Rule] = {
    "MatMulNBits": _matmul_n_bits,
    "DynamicQuantizeMatMul": _matmul_to_float(2),
    "MatMulIntegerToFloat": _matmul_to_float(2),
    "FusedMatMul": _fused_matmul,
    "QGemm": _q_gemm,
    "QLinearAdd": _q_linear_binary,
    "QLinearMul": _q_linear_binary,
    "QLinearConcat": _q_linear_concat,
    "QLinearGlobalAveragePool": _q_linear_global_pool,
    "GatherBlockQuantized": _gather_block_quantized,
    "MultiHeadAttention": _multi_head_attention,
    "Attention": _attention,
    "QAttention": _attention,
    "GroupQueryAttention": _group_query_attention,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_layer_norm,
    "EmbedLayerNormalization": _embed_layer_norm,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
} | dict.fromkeys(
    (
        *("FastGelu", "BiasGelu", "QuickGelu", "Gelu", "BiasSoftmax", "RotaryEmbedding"),
        *("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"),
    ),
    _same,
)

RULES: dict[tuple[str, str], Rule] = {("com.microsoft", name): rule for name, rule in _MICROSOFT.items()}
# ONNX Runtime registers this one under the standard domain.
RULES["", "SimplifiedLayerNormalization"] = _same
"""Rules by domain and operator."""
