"""Fewer, larger operators with the same results.

Clean-up, mostly by onnx_ir's passes, and one rewrite that engines do not do themselves: linear layers that
read the same activations (query, key and value) become one product and a split, so that the
activations are read, and quantized, once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.rewriting import Linear, Rewriter, clean, constant_of, editable, linears


class Fuse(GraphPass):
    """Clean the graph and join parallel linear layers."""

    scheme: ClassVar[str] = "fuse"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        before = model.graph.num_nodes()
        _drop_identities(model)
        common.DeduplicateInitializersPass()(model)
        described = [(value.type, value.shape) for value in model.graph.outputs]
        common.CommonSubexpressionEliminationPass()(model)
        for value, (kind, shape) in zip(model.graph.outputs, described, strict=True):
            value.type, value.shape = kind, shape  # an equal value that took the place may have none
        groups: dict[tuple[object, ...], list[_Branch]] = defaultdict(list)
        for layer in linears(model):
            branch = _branch(layer)
            if branch is not None:
                groups[layer.input, layer.node.graph, branch.bias is None].append(branch)
        joined = 0
        made: dict[tuple[object, ...], tuple[ir.Value, ir.Value | None, ir.Value]] = {}
        for branches in groups.values():
            if len(branches) > 1:
                _join(model, branches, made)
                joined += len(branches)
        clean(model)
        notes = (f"{joined} parallel linear layers became fewer, larger ones.",) if joined else ()
        return Applied(model, bool(joined) or model.graph.num_nodes() != before, notes)


def _drop_identities(model: ir.Model) -> None:
    # Not onnx_ir's pass: it also drops those that give an output, which then is another output's
    # value twice, or an outer graph's in a branch of an If.
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Identity" and not node.domain and not node.outputs[0].is_graph_output():
            source = node.inputs[0]
            assert source is not None
            node.outputs[0].replace_all_uses_with(source)


@dataclass(frozen=True)
class _Branch:
    """A layer that may be joined with others."""

    layer: Linear
    bias: ir.Value | None
    """One value for each output feature, constant."""
    output: ir.Value
    """Its result, with the bias."""


def _branch(layer: Linear) -> _Branch | None:
    """The layer with its bias, which may be an Add of its own; none where it cannot be joined."""
    output = layer.node.outputs[0]
    if layer.bias is not None:
        return _Branch(layer, layer.bias, output) if _is_bias(layer.bias, layer) else None
    users = output.consumers()
    if layer.node.op_type == "MatMul" and len(users) == 1 and not output.is_graph_output():
        add = users[0]
        bias = next((value for value in add.inputs if value is not None and _is_bias(value, layer)), None)
        if add.op_type == "Add" and add.graph is layer.node.graph and bias is not None:
            return _Branch(layer, bias, add.outputs[0])
    return _Branch(layer, None, output)


def _is_bias(value: ir.Value, layer: Linear) -> bool:
    array = constant_of(value)
    return array is not None and array.shape == (layer.weight.shape[1],)


def _join(
    model: ir.Model,
    branches: list[_Branch],
    made: dict[tuple[object, ...], tuple[ir.Value, ir.Value | None, ir.Value]],
) -> None:
    """Put one product and a split in the place of layers that share their input.

    `made` holds the constants by the weights and biases they came from: layers may be shared, too.
    """
    first = branches[0].layer
    rewriter = Rewriter(model, first.node)
    key = tuple((*branch.layer.key, branch.bias) for branch in branches)
    if key not in made:
        name = f"{first.name}_joined"
        weights = [branch.layer.weight for branch in branches]
        sizes = np.array([weight.shape[1] for weight in weights], np.int64)
        biases = [bias for branch in branches if (bias := constant_of(branch.bias)) is not None]
        made[key] = (
            rewriter.constant(name, np.concatenate(weights, axis=1)),
            rewriter.constant(f"{name}_bias", np.concatenate(biases)) if biases else None,
            rewriter.constant(f"{name}_sizes", sizes),
        )
    joined, joined_bias, split = made[key]
    product = rewriter.op("MatMul", [first.input, joined])
    if joined_bias is not None:
        product = rewriter.op("Add", [product, joined_bias])
    parts = rewriter.op("Split", [product, split], {"axis": -1}, outputs=len(branches))
    for branch, part in zip(branches, parts, strict=True):
        rewriter.replace(branch.output, part)
