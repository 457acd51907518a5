"""What an engine makes of each node: the precision it computes in, and whether it runs by itself.

Habits of exporters and quantizers are seen through. A quantized graph written with QuantizeLinear
and DequantizeLinear around float operators (QDQ) runs in int8, the conversions fused away. And
small operators behind a product (an activation, a bias, a scale) run inside it. What is made of weights
alone is made once, when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from openglm.model.analysis.contrib import attribute
from openglm.model.analysis.inference import TensorInfo
from openglm.model.analysis.operations import MOVES, VIEWS
from openglm.model.analysis.weights import Weights

_CONV = frozenset(("Conv", "QLinearConv", "ConvInteger", "ConvTranspose", "FusedConv"))
_PRODUCTS = _CONV | {"MatMul", "Gemm", "MatMulNBits", "FusedMatMul"}
_INTEGER_PRODUCTS = frozenset(("MatMulInteger", "ConvInteger"))
_INT8 = frozenset(
    (*_INTEGER_PRODUCTS, "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm")
)
_AFTER_CONV = frozenset(("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "BatchNormalization"))
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)


class Roles:
    """The roles of the nodes of one graph and its subgraphs."""

    def __init__(self, graph: ir.Graph, weights: Weights) -> None:
        self._weights = weights
        self._quantized = {node for node in graph.all_nodes() if self._is_qdq(node)}
        self._fused: set[ir.Node] = set()
        for node in graph.all_nodes():  # in order: what is behind a fused node may be fused too
            if self._runs_inside(node):
                self._fused.add(node)
        self._once: set[ir.Node] = set()
        for node in graph:
            if self._runs_once(node):
                self._once.add(node)

    def free(self, node: ir.Node) -> bool:
        """Whether the node costs nothing of its own."""
        cheap = node.op_type in VIEWS or node.op_type in ("Shape", "Size")
        return cheap or node in self._fused or node in self._once

    def precision(
        self, node: ir.Node, inputs: Sequence[TensorInfo | None]
    ) -> Literal["fp32", "fp16", "int8", "int4w"]:
        """What the node computes in."""
        if node in self._quantized or node.op_type in _INT8 or node.op_type.startswith("QLinear"):
            return "int8"
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized") and attribute(node, "bits", 4) <= 4:
            return "int4w"
        if any(self._four_bits(value) for value in node.inputs):
            return "int4w"
        return "fp16" if any(info is not None and info.dtype in _HALF for info in inputs) else "fp32"

    def reads(self, node: ir.Node) -> list[ir.Value]:
        """The values that the node reads; behind a conversion fused into it, the quantized one."""
        if node in self._fused and node.op_type == "DequantizeLinear":
            return []
        found: list[ir.Value] = []
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if maker is not None and maker in self._fused and maker.op_type == "DequantizeLinear":
                found += [each for each in maker.inputs if each is not None]
            elif value is not None:
                found.append(value)
        return found

    def written(self, value: ir.Value) -> ir.Value:
        """The value that is really written: the last of the chain fused behind it."""
        while (user := _only_user(value)) is not None and user in self._fused and user.outputs:
            if user.op_type == "DequantizeLinear":
                break
            value = user.outputs[0]
        return value

    def _is_qdq(self, node: ir.Node) -> bool:
        """Whether a float operator stands between conversions: inputs dequantized, its result quantized.

        A product may also leave its result in float.
        """
        if node.op_type in (*_CONVERSIONS, *VIEWS) or not node.inputs or not node.outputs:
            return False
        uses = node.outputs[0].uses()
        quantized_after = bool(uses) and all(use.node.op_type == "QuantizeLinear" for use in uses)
        if node.op_type in MOVES:  # a Gather of an int8 table included
            return quantized_after and _dequantized_from(node.inputs[0]) is not None
        operands = node.inputs[:2] if node.op_type in _PRODUCTS else node.inputs
        sources = [_dequantized_from(value) for value in operands if value not in self._weights]
        activations = [source for source in sources if source not in self._weights]
        whole = bool(activations) and all(source is not None for source in sources)
        return whole and (node.op_type in _PRODUCTS or quantized_after)

    def _runs_inside(self, node: ir.Node) -> bool:
        """Whether a node is fused into a neighbour."""
        if node.op_type == "DequantizeLinear":
            out = node.outputs[0]
            users = [use.node for use in out.uses()]
            four_bits = self._four_bits(out)
            return bool(users) and all(
                user in self._quantized or (four_bits and user.op_type == "MatMul") for user in users
            )
        value = next((v for v in node.inputs if v is not None and v.producer() is not None), None)
        maker = value.producer() if value is not None else None
        if value is None or maker is None:
            return False
        behind = maker in self._fused and maker.op_type not in _CONVERSIONS
        if node.op_type == "QuantizeLinear":
            return maker in self._quantized or (behind and maker.op_type in _AFTER_CONV)
        if _only_user(value) is not node:
            return False
        if node.op_type in _AFTER_CONV:
            return maker.op_type in _CONV
        # MatMulInteger -> Cast -> Mul by the scales -> Add of the bias: engines rescale as they write.
        if node.op_type == "Cast":
            return maker.op_type in _INTEGER_PRODUCTS
        constant = any(each in self._weights for each in node.inputs)
        if node.op_type == "Mul":
            return (behind and maker.op_type == "Cast") or (constant and maker.op_type in _PRODUCTS)
        biased = node.op_type == "Add" and constant
        return biased and (maker.op_type in _PRODUCTS or (behind and maker.op_type == "Mul"))

    def _runs_once(self, node: ir.Node) -> bool:
        """Whether an engine computes it when it loads the graph: all that it reads is constant."""
        given = [value for value in node.inputs if value is not None]
        return (
            bool(given)
            and node.op_type != "DequantizeLinear"  # left for the integer operator that may take it
            and all(value in self._weights or value.producer() in self._once for value in given)
        )

    def _four_bits(self, value: ir.Value | None) -> bool:
        """Whether a value is a 4-bit weight dequantized."""
        source = _dequantized_from(value)
        return source is not None and source.dtype in _FOUR_BITS and source in self._weights


def _dequantized_from(value: ir.Value | None) -> ir.Value | None:
    """The quantized value behind a dequantized one; none for any other."""
    maker = value.producer() if value is not None else None
    return maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None


def _only_user(value: ir.Value) -> ir.Node | None:
    users = [use.node for use in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None
