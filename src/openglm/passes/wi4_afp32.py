"""Weights of linear layers as 4-bit integers in groups, activations as float32.

An eighth of the size, for models whose weights are most of their cost: language models. The scale
of each group is chosen for the least squared error.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, PassConfig
from openglm.passes.embeddings import quantize_rows, tables
from openglm.passes.rewriting import MICROSOFT, Rewriter, clean
from openglm.passes.weight_only import quantize_linears


class WeightInt4(PassConfig):
    """4-bit weights in linear layers; embeddings as 8-bit or 4-bit rows; the head stays as it is."""

    scheme: ClassVar[str] = "wi4_afp32"

    group_size: Literal[16, 32, 64, 128, 256] = 32
    """Weights along the input side of a layer that share a scale."""
    symmetric: bool = True
    """Without zero points; with them (false) skewed groups lose less, and the size grows a little."""
    compute: Literal["fp32", "int8"] = "fp32"
    """"int8" lets the engine round activations to int8 blocks inside a product, for speed."""
    embeddings: Literal["int4", "int8", "float"] = "int8"

    @property
    def code(self) -> str:
        parts = [self.scheme, f"g{self.group_size}"]
        parts += [] if self.symmetric else ["asymmetric"]
        parts += ["compute_int8"] if self.compute == "int8" else []
        parts += [] if self.embeddings == "int8" else [f"embeddings_{self.embeddings}"]
        return "_".join(parts)

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = graph.clone()
        done = quantize_linears(model, 4, self.group_size, self.symmetric, self.compute, float_heads=True)
        if self.embeddings == "int8":
            done += quantize_rows(model)
        elif self.embeddings == "int4":
            done += _quantize_rows_int4(model, self.group_size)
        clean(model)
        notes = ("Convolutions stay float: 4-bit convolutions have no kernel.",) if _has_convolution(model) else ()
        return Applied(model, bool(done), notes)


def _has_convolution(model: ir.Model) -> bool:
    return any(node.op_type == "Conv" for node in model.graph.all_nodes())


def _quantize_rows_int4(model: ir.Model, group_size: int) -> int:
    """Embedding tables as GatherBlockQuantized: rows of 4-bit groups; how many."""
    done = 0
    for node, table in tables(model):
        if table.shape[1] % group_size:
            continue
        rewriter = Rewriter(model, node)
        name = str(node.inputs[0].name)  # type: ignore[union-attr]
        grouped = table.reshape(table.shape[0], -1, group_size)
        integers, scales, _ = affine.blockwise(grouped, 4, True)
        packed = affine.pack_nibbles(integers.reshape(table.shape))
        # Signed 4-bit: the middle of the unsigned range becomes 0, by flipping the sign bit.
        signed = ir.PackedTensor(packed ^ np.uint8(0x88), ir.DataType.INT4, shape=ir.Shape(table.shape))
        row = rewriter.op(
            "GatherBlockQuantized",
            [rewriter.constant(f"{name}_int4", signed), node.inputs[1], rewriter.constant(f"{name}_scale", scales)],
            {"gather_axis": 0, "quantize_axis": 1, "block_size": group_size},
            domain=MICROSOFT,
        )
        rewriter.replace(node.outputs[0], row)
        done += 1
    return done
