"""Weights as int8, activations as float32: a quarter of the size, with the least loss.

With products in float32 the weights are int8 constants, cast to floats, which an engine does once, when it
loads the model: the file is small, speed and memory those of float. What a linear layer's weights are
scaled by, its products are: scaling the weights themselves would be a second array of floats, which ONNX
Runtime holds beside the first while it loads, and only a convolution's are. (Not DequantizeLinear: it would
be computed before a convolution at each call, and with a MatMul become one operator that rounds
activations to int8.) With `compute="int8"` they stay int8 in memory too, and the engine rounds activations
to int8, block by block, inside the product.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.embeddings import quantize_rows
from openglm.passes.rewriting import Rewriter, attribute, clean, editable, is_plain, weight_of
from openglm.passes.weight_only import SMALLEST, quantize_linears


class WeightInt8(GraphPass):
    """int8 weights in linear layers, convolutions and embeddings."""

    scheme: ClassVar[str] = "wi8_afp32"

    compute: Literal["fp32", "int8"] = "fp32"
    """What the products of linear layers are computed in."""
    group_size: Literal[16, 32, 64, 128, 256] = 128
    """With `compute="int8"`: weights along the input side that share a scale."""

    @property
    def code(self) -> str:
        return self.scheme if self.compute == "fp32" else f"{self.scheme}_g{self.group_size}_compute_int8"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        done = 0
        if self.compute == "int8":
            done += quantize_linears(model, 8, self.group_size, True, "int8")
        done += _store_as_int8(model)
        clean(model)  # what tied layers no longer read may be a table only
        done += quantize_rows(model)
        clean(model)
        return Applied(model, bool(done))


def _store_as_int8(model: ir.Model) -> int:
    """Put int8 constants, widened, in the place of float weights; how many."""
    made: dict[tuple[ir.Value, int, bool], tuple[ir.Value, ir.Value]] = {}
    done = 0
    for node in list(model.graph.all_nodes()):
        axis = _output_axis(node)
        weight = weight_of(node) if axis is not None else None
        if axis is None or weight is None or weight.dtype != np.float32:
            continue
        if weight.ndim < 2 or weight.size < SMALLEST:
            continue
        source = node.inputs[1]
        assert source is not None
        axis %= weight.ndim
        rewriter = Rewriter(model, node)
        linear = node.op_type == "MatMul" or (node.op_type == "Gemm" and is_plain(node))
        if (source, axis, linear) not in made:
            integers, scales = affine.symmetric(weight, axis)
            others = () if linear else tuple(index for index in range(weight.ndim) if index != axis)
            made[source, axis, linear] = (
                rewriter.constant(f"{source.name}_int8", integers),
                rewriter.constant(f"{source.name}_scale", np.expand_dims(scales, others)),
            )
        stored, scale = made[source, axis, linear]
        real = rewriter.op("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        if linear:
            _scale_behind(rewriter, node, real, scale)
        else:
            node.replace_input_with(1, rewriter.op("Mul", [real, scale]))
        done += 1
    return done


def _scale_behind(rewriter: Rewriter, node: ir.Node, weight: ir.Value, scale: ir.Value) -> None:
    """Let a linear layer take `weight`, and scale what comes of it before a bias is added."""
    turned = {"transB": 1} if attribute(node, "transB", 0) else {}
    product = rewriter.op(node.op_type, [node.inputs[0], weight], turned)
    made = rewriter.op("Mul", [product, scale])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        made = rewriter.op("Add", [made, node.inputs[2]])
    rewriter.replace(node.outputs[0], made)


def _output_axis(node: ir.Node) -> int | None:
    """The axis of a node's weight that its outputs are counted along; none for other nodes."""
    if node.domain:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)
