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
    model: ir.Model, bits: Literal[4, 8], group_size: int, is_symmetric: bool, compute: Literal["fp32", "int8"],
    float_heads: bool,
) -> int:
    """Replace the linear layers of `model` itself by MatMulNBits; how many."""
    logits = heads(model) if float_heads else set()
    done = 0
    for layer in list(linears(model)):
        if layer.weight.size < SMALLEST or layer.node in logits:
            continue
        rewriter = Rewriter(model, layer.node)
        integers, scales, zeros = affine.blockwise(affine.blocks(layer.weight, group_size), bits, is_symmetric)
        outputs, count = scales.shape
        packed = affine.pack_nibbles(integers) if bits == 4 else integers
        points = None
        if not is_symmetric:
            points = rewriter.constant(f"{layer.name}_zero", affine.pack_nibbles(zeros) if bits == 4 else zeros)
        real = rewriter.op(
            "MatMulNBits",
            [
                layer.input,
                rewriter.constant(f"{layer.name}_int{bits}", packed.reshape(outputs, count, -1)),
                rewriter.constant(f"{layer.name}_scale", scales),
                points,
            ],
            {
                "K": layer.weight.shape[0],
                "N": outputs,
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
