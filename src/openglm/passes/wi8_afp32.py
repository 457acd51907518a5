"""Weights as int8, activations as float32: a quarter of the size, with the least loss.

With products in float32 the weights are int8 constants, cast and multiplied by their scales, which
an engine does once, when it loads the model: the file is small, the speed that of float. (Not
DequantizeLinear: ONNX Runtime would compute it before a convolution at each call, and turn it and a
MatMul into one operator that rounds activations to int8.) With `compute="int8"` they stay int8 in
memory too, and the engine rounds activations to int8, block by block, inside the product.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.embeddings import quantize_rows
from openglm.passes.rewriting import Rewriter, attribute, clean, editable, weight_of
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
    """Put int8 constants, widened and scaled, in the place of float weights; how many."""
    made: dict[tuple[ir.Value, int], tuple[ir.Value, ir.Value]] = {}
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
        if (source, axis) not in made:
            integers, scales = affine.symmetric(weight, axis)
            others = tuple(index for index in range(weight.ndim) if index != axis)
            made[source, axis] = (
                rewriter.constant(f"{source.name}_int8", integers),
                rewriter.constant(f"{source.name}_scale", np.expand_dims(scales, others)),
            )
        stored, scale = made[source, axis]
        real = rewriter.op("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        node.replace_input_with(1, rewriter.op("Mul", [real, scale]))
        done += 1
    return done


def _output_axis(node: ir.Node) -> int | None:
    """The axis of a node's weight that its outputs are counted along; none for other nodes."""
    if node.domain:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)
