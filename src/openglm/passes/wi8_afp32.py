"""Weights as int8, activations as float32: a quarter of the size, with the least loss.

With products in float32 the weights are plain DequantizeLinear constants, which an engine widens
when it loads the model: the file is small, the speed that of float. With `compute="int8"` they stay
int8 in memory too, and the engine rounds activations to int8, block by block, inside the product.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, PassConfig
from openglm.passes.embeddings import quantize_rows
from openglm.passes.rewriting import Rewriter, attribute, clean, constant_of
from openglm.passes.weight_only import SMALLEST, quantize_linears


class WeightInt8(PassConfig):
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
        model = graph.clone()
        done = 0
        if self.compute == "int8":
            done += quantize_linears(model, 8, self.group_size, True, "int8", float_heads=True)
        done += _store_as_int8(model)
        done += quantize_rows(model)
        clean(model)
        return Applied(model, bool(done))


def _store_as_int8(model: ir.Model) -> int:
    """Put int8 constants and DequantizeLinear in the place of float weights; how many."""
    made: dict[str, tuple[ir.Value, ir.Value]] = {}
    done = 0
    for node in list(model.graph.all_nodes()):
        axis = _output_axis(node)
        weight = constant_of(node.inputs[1]) if axis is not None else None
        if axis is None or weight is None or weight.ndim < 2 or weight.size < SMALLEST:
            continue
        name = str(node.inputs[1].name)  # type: ignore[union-attr]
        rewriter = Rewriter(model, node)
        if name not in made:
            integers, scales = affine.symmetric(weight, axis % weight.ndim)
            made[name] = (
                rewriter.constant(f"{name}_int8", integers),
                rewriter.constant(f"{name}_scale", scales),
            )
        node.replace_input_with(1, rewriter.op("DequantizeLinear", made[name], {"axis": axis % weight.ndim}))
        done += 1
    return done


def _output_axis(node: ir.Node) -> int | None:
    """The axis of a node's weight that its outputs are counted along; none for other nodes."""
    if node.domain:
        return None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}.get(node.op_type)
