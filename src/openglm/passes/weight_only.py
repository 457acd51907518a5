"""What the weight-only schemes share: linear layers as ONNX Runtime's MatMulNBits.

MatMulNBits (domain com.microsoft) holds a (in, out) matrix as unsigned integers in blocks along the
input side, (out, blocks, bytes a block), with a scale for each block.
"""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.rewriting import MICROSOFT, Rewriter, heads, is_of, linears, small_heads

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
    eight: tuple[str, ...] = (),
) -> int:
    """Replace the linear layers of `model` itself by MatMulNBits; how many.

    A small head stays as it is. A large one, and layers in modules `eight`, take 8 bits, whatever the
    others take.
    """
    logits, kept = heads(model), small_heads(model)
    made: dict[tuple[ir.Value, bool, int], list[ir.Value | None]] = {}
    done = 0
    for layer in list(linears(model)):
        if layer.weight.size < SMALLEST or layer.node in kept:
            continue
        width = 8 if layer.node in logits or is_of(layer.node, eight) else bits
        # A group wider than the layer would be filled up with zeros.
        size = min(group_size, max(16, 1 << (layer.weight.shape[0] - 1).bit_length()))
        rewriter = Rewriter(model, layer.node)
        key = (*layer.key, width)
        if key not in made:
            grouped = affine.blocks(layer.weight, size)
            integers, scales, zeros = affine.blockwise(grouped, width, is_symmetric)
            if width == 4:
                integers, zeros = affine.pack_nibbles(integers), affine.pack_nibbles(zeros)
            made[key] = [
                rewriter.constant(f"{layer.name}_int{width}", integers),
                rewriter.constant(f"{layer.name}_scale", scales),
                None if is_symmetric else rewriter.constant(f"{layer.name}_zero", zeros),
            ]
        real = rewriter.op(
            "MatMulNBits",
            [layer.input, *made[key]],
            {
                "K": layer.weight.shape[0],
                "N": layer.weight.shape[1],
                "bits": width,
                "block_size": size,
                "accuracy_level": _ACCURACY[compute],
            },
            domain=MICROSOFT,
        )
        if layer.bias is not None:
            real = rewriter.op("Add", [real, layer.bias])
        rewriter.replace(layer.node.outputs[0], real)
        done += 1
    return done
