"""What the weight-only schemes share: linear layers as ONNX Runtime's MatMulNBits.

MatMulNBits (domain com.microsoft) holds a (in, out) matrix as unsigned integers in blocks along the
input side, (out, blocks, bytes a block), with a scale for each block.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.rewriting import MICROSOFT, Rewriter, heads, linears

SMALLEST = 4096
"""Elements of a weight below which nothing is saved."""

# The operator's `accuracy_level`: what it may round activations to inside.
_ACCURACY = {"fp32": 1, "int8": 4}


def quantize_linears(
    model: ir.Model,
    bits: Literal[4, 8],
    group_size: int,
    is_symmetric: bool,
    compute: Literal["fp32", "int8"],
    float_heads: bool,
) -> int:
    """Replace the linear layers of `model` itself by MatMulNBits; how many."""
    logits = heads(model) if float_heads else set()
    made: dict[tuple[ir.Value, bool], list[ir.Value | None]] = {}
    done = 0
    for layer in list(linears(model)):
        if layer.weight.size < SMALLEST or layer.node in logits:
            continue
        rewriter = Rewriter(model, layer.node)
        if layer.key not in made:
            grouped = affine.blocks(layer.weight, group_size)
            integers, scales, zeros = affine.blockwise(grouped, bits, is_symmetric)
            if bits == 4:
                integers, zeros = affine.pack_nibbles(integers), affine.pack_nibbles(zeros)
            made[layer.key] = [
                rewriter.constant(f"{layer.name}_int{bits}", integers),
                rewriter.constant(f"{layer.name}_scale", scales),
                None if is_symmetric else rewriter.constant(f"{layer.name}_zero", zeros),
            ]
        real = rewriter.op(
            "MatMulNBits",
            [layer.input, *made[layer.key]],
            {
                "K": layer.weight.shape[0],
                "N": layer.weight.shape[1],
                "bits": bits,
                "block_size": group_size,
                "accuracy_level": _ACCURACY[compute],
            },
            domain=MICROSOFT,
        )
        if layer.bias is not None:
            real = rewriter.op("Add", [real, layer.bias])
        rewriter.replace(layer.node.outputs[0], real)
        done += 1
    return done
