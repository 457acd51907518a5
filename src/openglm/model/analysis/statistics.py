"""What a graph is made of: parameters, multiply-accumulates, bytes, and the cost of every node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from openglm.model.analysis.inference import TensorInfo, subgraphs, trip_count
from openglm.model.analysis.naming import module_of
from openglm.model.analysis.operations import multiply_accumulates, other_operations
from openglm.model.analysis.roles import Roles
from openglm.model.analysis.shapes import Shapes, resolve
from openglm.model.analysis.weights import Weights

LayerPrecision = Literal["fp32", "fp16", "int8", "int4w"]


@dataclass(frozen=True)
class Layer:
    """One node's cost for one inference."""

    name: str
    """The module it came from ("encoder.layer.0.attention.self.query"), else the node's own name."""
    node: str
    op_type: str
    macs: int
    other_ops: int
    """Arithmetic operations besides multiply-accumulates."""
    weight_bytes: int
    """Bytes of the constants that it uses; one that layers share is in each of them."""
    read_bytes: int
    """Bytes that it reads, weights included."""
    write_bytes: int
    precision: LayerPrecision
    """What it computes in; "int4w" has 4-bit weights and computes in float."""
    shape: tuple[int, ...] | None
    """Of its first output; none where unknown."""

    @property
    def runs(self) -> bool:
        """Whether an engine runs it at all: a view does not, nor what is fused into a neighbour."""
        return bool(self.macs or self.other_ops or self.read_bytes or self.write_bytes)

    def times(self, count: int) -> Layer:
        """The cost of running it `count` times; its weights are there once."""
        return replace(
            self,
            macs=self.macs * count,
            other_ops=self.other_ops * count,
            read_bytes=self.read_bytes * count,
            write_bytes=self.write_bytes * count,
        )


@dataclass(frozen=True)
class OperatorCount:
    """All nodes of one type."""

    op_type: str
    count: int
    macs: int
    share: float
    """Of the graph's multiply-accumulates."""


@dataclass(frozen=True)
class Statistics:
    """What `analyse` found; bytes are bytes, not megabytes."""

    parameters: int
    macs: int
    weight_bytes: int
    """All constants, the scales and zero points of quantized weights among them."""
    file_bytes: int
    """Of the graph as one file."""
    operators: tuple[OperatorCount, ...]
    """Most multiply-accumulates first, then most nodes."""
    layers: tuple[Layer, ...] = field(repr=False)
    """In the order of the graph."""
    unknown_operators: tuple[str, ...]
    """Operators with no known meaning; their cost is that of the bytes they touch."""
    shapes: Shapes = field(repr=False)


def analyse(model: ir.Model, dims: Mapping[str, int] | None = None) -> Statistics:
    """Count what `model` holds and what one inference of it costs, without reading its weights.

    `dims` as in `shapes.resolve`. Of an If, the costlier branch is counted; a Loop or Scan counts
    its body as often as it is known to run, and once where data decides. Raises `InputError` for
    an unknown dimension in `dims`.
    """
    shapes = resolve(model, dims)
    weights = Weights(shapes.graph)
    layers = tuple(_layers(shapes.graph, shapes, Roles(shapes.graph, weights), weights))
    macs = sum(layer.macs for layer in layers)
    return Statistics(
        parameters=weights.parameters,
        macs=macs,
        weight_bytes=weights.nbytes,
        file_bytes=weights.nbytes + _structure_bytes(shapes.graph),
        operators=_operators(layers, macs),
        layers=layers,
        unknown_operators=shapes.unknown_operators,
        shapes=shapes,
    )


def _operators(layers: tuple[Layer, ...], macs: int) -> tuple[OperatorCount, ...]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for layer in layers:
        counts[layer.op_type][0] += 1
        counts[layer.op_type][1] += layer.macs
    found = [OperatorCount(name, n, own, own / macs if macs else 0.0) for name, (n, own) in counts.items()]
    return tuple(sorted(found, key=lambda operator: (-operator.macs, -operator.count, operator.op_type)))


def _structure_bytes(graph: ir.Graph) -> int:
    """Bytes of the nodes in a file, the tensors apart."""
    plain = (node for node in graph.all_nodes() if node.op_type != "Constant" and not subgraphs(node))
    names = sum(len(value.name or "") + 16 for value in graph.initializers.values())
    return names + sum(int(ir.to_proto(node).ByteSize()) + 4 for node in plain)


def _layers(graph: ir.Graph, shapes: Shapes, roles: Roles, weights: Weights) -> list[Layer]:
    layers = []
    for node in graph:
        if bodies := subgraphs(node):
            branches = [_layers(body, shapes, roles, weights) for body in bodies]
            worst = max(branches, key=lambda branch: sum(layer.macs for layer in branch))
            count = 1 if node.op_type == "If" else trip_count(node, shapes.of, shapes.constants)
            layers += [layer.times(1 if count is None else count) for layer in worst]
        elif node.op_type != "Constant":
            layers.append(_layer(node, shapes, roles, weights))
    return layers


def _layer(node: ir.Node, shapes: Shapes, roles: Roles, weights: Weights) -> Layer:
    inputs: list[TensorInfo | None] = [shapes.of.get(value) if value else None for value in node.inputs]
    outputs = [shapes.of.get(value) for value in node.outputs]
    read = write = macs = other = 0
    if not roles.free(node):
        macs, other = multiply_accumulates(node, inputs, outputs), other_operations(node, inputs, outputs)
        write = sum(shapes.nbytes(roles.written(value)) for value in node.outputs)
        read = write if node.op_type in _ROWS else sum(shapes.nbytes(value) for value in roles.reads(node))
    module = module_of(node)
    return Layer(
        name=module or node.name or node.outputs[0].name or node.op_type,
        node=node.name or node.outputs[0].name or "",
        op_type=node.op_type,
        macs=macs,
        other_ops=other,
        weight_bytes=sum(weights.get(value, 0) for value in roles.reads(node)),
        read_bytes=read,
        write_bytes=write,
        precision=roles.precision(node, inputs),
        shape=outputs[0].shape if outputs and outputs[0] is not None else None,
    )


_ROWS = frozenset(("Gather", "GatherND", "GatherElements", "GatherBlockQuantized", "Slice", "Shape", "Size"))
"""Operators that read no more of their first input than they write."""
