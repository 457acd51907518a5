"""Which constants of a graph are weights, and how many parameters they hold."""

from __future__ import annotations

import onnx_ir as ir

from openglm.model.analysis.contrib import attribute

# Inputs that describe a quantization, or a statistic that training does not learn; not parameters.
_NOT_PARAMETERS: dict[str, frozenset[int]] = {
    name: frozenset(places)
    for name, places in {
        "BatchNormalization": (3, 4),  # running mean and variance
        "QuantizeLinear": (1, 2),
        "DequantizeLinear": (1, 2),
        "MatMulInteger": (2, 3),
        "ConvInteger": (2, 3),
        "MatMulNBits": (2, 3, 4),
        "GatherBlockQuantized": (2, 3),
        "DynamicQuantizeMatMul": (2, 3),
        "MatMulIntegerToFloat": (2, 3, 4, 5),
        "QLinearConv": (1, 2, 4, 5, 6, 7),
        "QLinearMatMul": (1, 2, 4, 5, 6, 7),
        "QGemm": (1, 2, 4, 5, 7, 8),
        "QLinearAdd": (1, 2, 4, 5, 6, 7),
        "QLinearMul": (1, 2, 4, 5, 6, 7),
        "QAttention": (3, 4, 6, 7),
    }.items()
}
_NARROW = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
_BIAS_INT32 = frozenset((("QLinearConv", 8), ("DequantizeLinear", 0), ("QGemm", 6)))


class Weights(dict[ir.Value, int]):
    """The bytes of every constant of a graph and its subgraphs, by value."""

    parameters: int
    """Elements of the constants that training learns: floats and quantized floats with at least one
    dimension. Scales, zero points, shapes, masks and running statistics are not among them; a
    tensor that two nodes share counts once."""

    def __init__(self, graph: ir.Graph) -> None:
        tensors: dict[ir.Value, ir.TensorProtocol] = {}
        graphs = [graph, *graph.subgraphs()]
        for each in graphs:
            tensors |= {v: v.const_value for v in each.initializers.values() if v.const_value is not None}
        for node in graph.all_nodes():
            attr = node.attributes.get("value") if node.op_type == "Constant" else None
            if attr is not None and attr.type == ir.AttributeType.TENSOR:
                tensors[node.outputs[0]] = attr.as_tensor()
        super().__init__({value: int(tensor.nbytes) for value, tensor in tensors.items()})
        self.parameters = sum(_parameters(value, tensor) for value, tensor in tensors.items())

    @property
    def nbytes(self) -> int:
        """Bytes of all constants."""
        return sum(self.values())


def _parameters(value: ir.Value, tensor: ir.TensorProtocol) -> int:
    uses = [(use.node, use.idx) for use in value.uses()]
    if not len(tensor.shape) or not uses:
        return 0
    if all(place in _NOT_PARAMETERS.get(node.op_type, ()) for node, place in uses):
        return 0
    if all(_rescales(node) for node, _ in uses):
        return 0
    node, place = uses[0]
    if node.op_type == "MatMulNBits" and place == 1:
        return attribute(node, "N", 0) * attribute(node, "K", 0)
    if node.op_type == "GatherBlockQuantized" and tensor.dtype == ir.DataType.UINT8:
        return int(tensor.size) * 8 // attribute(node, "bits", 4)
    bias = tensor.dtype == ir.DataType.INT32 and (node.op_type, place) in _BIAS_INT32
    learned = tensor.dtype.is_floating_point() or tensor.dtype in _NARROW or bias
    return int(tensor.size) if learned else 0


def _rescales(node: ir.Node) -> bool:
    """Whether a Mul joins the scales of an activation and of a weight (dynamic quantization)."""
    makers = [value.producer() for value in node.inputs if value is not None]
    return node.op_type == "Mul" and any(
        m is not None and m.op_type == "DynamicQuantizeLinear" for m in makers
    )
