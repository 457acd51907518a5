"""What one operator computes: its multiply-accumulates, and its other arithmetic operations.

The count is that of the definition (a product of [m, k] and [k, n] is m*k*n multiply-accumulates),
not of a faster algorithm such as Winograd's. Biases are not counted as multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import onnx_ir as ir

from openglm.model.analysis.contrib import attribute
from openglm.model.analysis.inference import TensorInfo

VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"))
"""Operators whose output is their input's memory under another shape: engines copy nothing."""

MOVES = frozenset(
    (
        *("Transpose", "Concat", "Slice", "Split", "Gather", "GatherND", "GatherElements", "Expand"),
        *("Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Shape", "Size", "Constant", "ConstantOfShape"),
        *("Range", "ScatterND", "ScatterElements", "GatherBlockQuantized", "QLinearConcat", "EyeLike"),
    )
)
"""Operators that move or make data and compute nothing."""

OPERATIONS_AN_ELEMENT = {
    "Softmax": 5,  # maximum, subtract, exponential, sum, divide
    "LogSoftmax": 6,
    "LayerNormalization": 8,  # mean, variance, normalise, scale and shift
    "SkipLayerNormalization": 9,
    "InstanceNormalization": 8,
    "GroupNormalization": 8,
    "Gelu": 8,
    "FastGelu": 8,
    "BiasGelu": 9,
    "Erf": 8,
    "Exp": 4,
    "Tanh": 4,
    "Sigmoid": 4,
    "Sin": 4,
    "Cos": 4,
    "Resize": 8,
    "GridSample": 12,
    "DynamicQuantizeLinear": 4,  # minimum, maximum, divide, round
}
"""Arithmetic operations for each output element, one where not listed. Rough, and rarely what binds."""

Infos = Sequence[TensorInfo | None]


def multiply_accumulates(node: ir.Node, inputs: Infos, outputs: Infos) -> int:
    """Multiply-accumulates of a node; 0 for one that has none or whose shapes are unknown."""
    count = _COUNTS.get(node.op_type)
    if count is None or not outputs or outputs[0] is None:
        return 0
    try:
        return int(count(node, inputs, outputs[0]))
    except (AttributeError, IndexError, KeyError, ValueError):  # what it needs is unknown or malformed
        return 0


def other_operations(node: ir.Node, inputs: Infos, outputs: Infos) -> int:
    """Arithmetic operations of a node besides its multiply-accumulates."""
    if node.op_type in VIEWS or node.op_type in MOVES or node.op_type in _COUNTS:
        return 0
    elements = outputs[0].elements if outputs and outputs[0] is not None else 0
    if node.op_type.startswith(("Reduce", "Global", "ArgM", "QLinearGlobal")):
        return inputs[0].elements if inputs and inputs[0] is not None else elements
    if node.op_type.endswith("Pool") and (kernel := node.attributes.get("kernel_shape")):
        return elements * prod(kernel.as_ints())
    return elements * OPERATIONS_AN_ELEMENT.get(node.op_type, 1)


def _conv(weight: int) -> Callable[..., int]:
    """Convolution with its weight [out, in/groups, *kernel] at the given input."""
    return lambda node, inputs, output: output.elements * prod(inputs[weight].shape[1:])


def _conv_transpose(node: ir.Node, inputs: Infos, output: TensorInfo) -> int:
    data, weight = inputs[0], inputs[1]
    return data.elements * prod(weight.shape[1:]) if data and weight else 0


def _matmul(node: ir.Node, inputs: Infos, output: TensorInfo) -> int:
    data = inputs[0]
    if data is None:
        return 0
    return output.elements * data.shape[-2 if attribute(node, "transA", 0) else -1]


def _einsum(node: ir.Node, inputs: Infos, output: TensorInfo) -> int:
    """Output elements times the sizes of the summed indices, for two operands."""
    terms, _, result = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, info in zip(terms.split(","), inputs, strict=True):
        front, _, back = term.partition("...")
        if info is not None:
            sizes |= dict(zip(front, info.shape, strict=False))
            sizes |= dict(zip(back, info.shape[len(info.shape) - len(back) :], strict=False))
    return output.elements * prod(size for index, size in sizes.items() if index not in result)


def _recurrent(node: ir.Node, inputs: Infos, output: TensorInfo) -> int:
    data, weight, recurrence = inputs[:3]
    if data is None or weight is None or recurrence is None:
        return 0
    return prod(data.shape[:2]) * (weight.elements + recurrence.elements)


def _attention(node: ir.Node, inputs: Infos, output: TensorInfo) -> int:
    """Scores and weighted sum, each batch * queries * keys * width; projections where it holds them."""
    query = inputs[0]
    key = inputs[1] if len(inputs) > 1 else None
    if query is None:
        return 0
    if len(query.shape) == 4:  # batch, heads, length, head size
        batch, queries, width = query.shape[0], query.shape[2], query.shape[1] * query.shape[3]
        keys = key.shape[2] if key else queries
    else:
        batch, queries = query.shape[:2]
        projected = node.op_type in ("Attention", "QAttention") and node.domain == "com.microsoft"
        width = output.shape[-1]
        if projected:
            return batch * queries * (key.elements if key else 0) + 2 * batch * queries * queries * width
        keys = queries if key is None else key.shape[2] if len(key.shape) == 4 else key.shape[1]
    past = 4 if node.op_type == "Attention" else 3 if node.op_type == "GroupQueryAttention" else 6
    if len(inputs) > past and (kept := inputs[past]) is not None and len(kept.shape) == 4:
        keys += kept.shape[2]
    return 2 * batch * queries * keys * width


_COUNTS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "NhwcConv"), _conv(1)),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul"), _matmul),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _matmul),
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
}
