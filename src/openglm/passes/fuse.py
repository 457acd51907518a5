"""Fewer, larger operators with the same results.

Clean-up by onnx_ir's passes, and one rewrite that engines do not do themselves: linear layers that
read the same activations (query, key and value) become one product and a split, so that the
activations are read, and quantized, once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from openglm.passes.contract import Applied, Context, PassConfig
from openglm.passes.rewriting import Linear, Rewriter, clean, constant_of, linears


class Fuse(PassConfig):
    """Clean the graph and join parallel linear layers."""

    scheme: ClassVar[str] = "fuse"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = graph.clone()
        before = model.graph.num_nodes()
        common.IdentityEliminationPass()(model)
        common.CommonSubexpressionEliminationPass()(model)
        groups: dict[tuple[ir.Value, ir.Graph], list[Linear]] = defaultdict(list)
        for layer in linears(model):
            if isinstance(layer.node.graph, ir.Graph):
                groups[layer.input, layer.node.graph].append(layer)
        joined = 0
        for layers in groups.values():
            biases = {bias is None for bias in map(_bias, layers)}
            if len(layers) > 1 and len(biases) == 1:
                _join(model, layers)
                joined += len(layers)
        clean(model)
        common.DeduplicateInitializersPass()(model)
        notes = (f"{joined} parallel linear layers became fewer, larger ones.",) if joined else ()
        return Applied(model, bool(joined) or model.graph.num_nodes() != before, notes)


def _bias(layer: Linear) -> tuple[ir.Value, np.ndarray] | None:
    """The output that a layer's bias makes, and the bias; none where it has no bias of its own."""
    output = layer.node.outputs[0]
    if layer.node.op_type == "Gemm":
        bias = constant_of(layer.bias)
        return None if bias is None or bias.ndim != 1 else (output, bias)
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output():
        return None
    add = uses[0].node
    if add.op_type != "Add":
        return None
    bias = next((array for array in map(constant_of, add.inputs) if array is not None), None)
    if bias is None or bias.shape != (layer.weight.shape[1],):
        return None
    return add.outputs[0], bias


def _join(model: ir.Model, layers: list[Linear]) -> None:
    """Put one product and a split in the place of layers that share their input."""
    first = layers[0]
    rewriter = Rewriter(model, first.node)
    name = f"{first.name}_joined"
    found = [_bias(layer) for layer in layers]
    weight = np.concatenate([layer.weight for layer in layers], axis=1)
    product = rewriter.op("MatMul", [first.input, rewriter.constant(name, weight)])
    if found[0] is not None:
        bias = np.concatenate([item[1] for item in found if item is not None])
        product = rewriter.op("Add", [product, rewriter.constant(f"{name}_bias", bias)])
    outputs = [layer.node.outputs[0] if item is None else item[0] for layer, item in zip(layers, found, strict=True)]
    sizes = np.array([layer.weight.shape[1] for layer in layers], np.int64)
    parts = rewriter.op(
        "Split", [product, rewriter.constant(f"{name}_sizes", sizes)], {"axis": -1}, outputs=len(layers)
    )
    for old, new in zip(outputs, parts, strict=True):
        rewriter.replace(old, new)
