"""Dynamic int8: weights as int8 beforehand, activations as uint8 by their range at each call.

No data is needed. Signed weights with unsigned activations is the form that ONNX Runtime fuses
into one operator and that x86 (VNNI) and ARM (dot product) have instructions for. Convolutions are
never quantized this way: ConvInteger ran at a tenth of the float speed.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.embeddings import quantize_rows
from openglm.passes.rewriting import Rewriter, clean, editable, is_of, linears, small_heads

SMALLEST = 4096
"""Elements of a weight below which quantizing the activations costs more than the product saves."""


class DynamicInt8(GraphPass):
    """Linear layers with int8 weights and activations quantized as they come."""

    scheme: ClassVar[str] = "dynamic_wi8_ai8"

    per_channel: bool = True
    """One scale for each output feature, else one for each weight."""
    weight_bits: Literal[7, 8] = 8
    """7 keeps products within 16 bits, for x86 processors without VNNI."""
    embeddings: bool = True
    """Store embedding tables as int8 rows."""
    skip: tuple[str, ...] = ()
    """Modules, by their dotted paths, whose layers stay float."""

    @property
    def code(self) -> str:
        suffix = "" if self.per_channel else "_per_tensor"
        suffix += "_w7" if self.weight_bits == 7 else ""
        suffix += "" if self.embeddings else "_embeddings_float"
        return self.scheme + suffix + (f"_but_{len(self.skip)}" if self.skip else "")

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        logits = small_heads(model)
        # By graph too: what a branch of an If computes exists nowhere else.
        quantized: dict[tuple[object, ...], tuple[ir.Value, ir.Value, ir.Value]] = {}
        made: dict[tuple[ir.Value, bool], tuple[ir.Value, ir.Value, ir.Value]] = {}
        done, kept = 0, []
        for layer in list(linears(model)):
            if layer.weight.size < SMALLEST or is_of(layer.node, self.skip):
                continue
            if layer.node in logits:
                kept.append(f"The head {layer.name} stays float, so that logits keep their precision.")
                continue
            rewriter = Rewriter(model, layer.node)
            place = (layer.input, layer.node.graph)
            if place not in quantized:
                quantized[place] = rewriter.op("DynamicQuantizeLinear", [layer.input], outputs=3)
            activation, scale, zero = quantized[place]
            if layer.key not in made:
                integers, scales = affine.symmetric(
                    layer.weight, 1 if self.per_channel else None, self.weight_bits
                )
                made[layer.key] = (
                    rewriter.constant(f"{layer.name}_int8", integers),
                    rewriter.constant(f"{layer.name}_zero", np.zeros(scales.shape, np.int8)),
                    rewriter.constant(f"{layer.name}_scale", scales),
                )
            weight, weight_zero, weight_scale = made[layer.key]
            product = rewriter.op("MatMulInteger", [activation, weight, zero, weight_zero])
            both = rewriter.op("Mul", [scale, weight_scale])
            real = rewriter.op("Mul", [rewriter.op("Cast", [product], {"to": int(ir.DataType.FLOAT)}), both])
            if layer.bias is not None:
                real = rewriter.op("Add", [real, layer.bias])
            rewriter.replace(layer.node.outputs[0], real)
            done += 1
        if any(node.op_type == "Conv" for node in model.graph.all_nodes()):
            kept.append("Convolutions stay float: quantized dynamically they are slower.")
        clean(model)
        rows = quantize_rows(model) if self.embeddings else 0
        clean(model)
        return Applied(model, bool(done or rows), tuple(kept))
