"""Weights of linear layers as 4-bit integers in groups, activations as float32.

An eighth of the size, for models whose weights are most of their cost: language models. The scale
of each group is chosen for the least squared error.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.embeddings import quantize_rows, tables
from openglm.passes.rewriting import MICROSOFT, Rewriter, clean, editable
from openglm.passes.weight_only import quantize_linears


class WeightInt4(GraphPass):
    """4-bit weights in linear layers; embeddings as 8-bit or 4-bit rows.

    A small head stays as it is; a large one, as language models have, takes 8 bits.
    """

    scheme: ClassVar[str] = "wi4_afp32"

    group_size: Literal[16, 32, 64, 128, 256] = 32
    """Weights along the input side of a layer that share a scale."""
    symmetric: bool = True
    """Without zero points; with them (false) skewed groups lose less, and the size grows a little."""
    compute: Literal["fp32", "int8"] = "fp32"
    """"int8" lets the engine round activations to int8 blocks inside a product, for speed."""
    embeddings: Literal["int4", "int8", "float"] = "int8"
    eight: tuple[str, ...] = ()
    """Modules, by their dotted paths, whose layers take 8 bits."""

    @property
    def code(self) -> str:
        parts = [self.scheme, f"g{self.group_size}"]
        parts += [] if self.symmetric else ["asymmetric"]
        parts += ["compute_int8"] if self.compute == "int8" else []
        parts += [] if self.embeddings == "int8" else [f"embeddings_{self.embeddings}"]
        parts += [f"eight_bits_{len(self.eight)}"] if self.eight else []
        return "_".join(parts)

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        done = quantize_linears(model, 4, self.group_size, self.symmetric, self.compute, self.eight)
        clean(model)  # what tied layers no longer read may be a table only
        if self.embeddings == "int4":
            done += _quantize_rows_int4(model, self.group_size)
        if self.embeddings != "float":
            done += quantize_rows(model)
        clean(model)
        notes: tuple[str, ...] = ()
        if any(node.op_type == "Conv" for node in model.graph.all_nodes()):
            notes = ("Convolutions stay float: 4-bit convolutions have no kernel.",)
        return Applied(model, bool(done), notes)


def _quantize_rows_int4(model: ir.Model, group_size: int) -> int:
    """Embedding tables as GatherBlockQuantized, rows of 4-bit groups, where groups fit a row; how many."""
    made: dict[str, list[ir.Value]] = {}
    done = 0
    for node, table in tables(model):
        if table.shape[1] % group_size:
            continue
        source, indices = node.inputs[0], node.inputs[1]
        assert source is not None
        rewriter = Rewriter(model, node)
        name = str(source.name)
        if name not in made:
            grouped = table.reshape(table.shape[0], -1, group_size)
            integers, scales, _ = affine.blockwise(grouped, 4, True)
            packed = affine.pack_nibbles(integers.reshape(table.shape))
            # Signed 4-bit: the middle of the unsigned range becomes 0, by flipping the sign bit.
            flat = packed.reshape(-1) ^ np.uint8(0x88)
            signed = ir.PackedTensor(flat, ir.DataType.INT4, shape=ir.Shape(table.shape))
            made[name] = [
                rewriter.constant(f"{name}_int4", signed),
                rewriter.constant(f"{name}_scale", scales),
            ]
        integers_value, scales_value = made[name]
        row = rewriter.op(
            "GatherBlockQuantized",
            [integers_value, indices, scales_value],
            {"gather_axis": 0, "quantize_axis": 1, "block_size": group_size},
            domain=MICROSOFT,
        )
        rewriter.replace(node.outputs[0], row)
        done += 1
    return done
