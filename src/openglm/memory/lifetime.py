"""How long each tensor of a graph lives, and how many bytes live at once.

Steps are the nodes in the graph's order. A tensor is alive from the step that makes it to the last
that reads it, both included: while a node runs, its inputs and outputs are there together. Inputs
of the graph are alive from the first step on, outputs to the last. Constants are not counted:
they are there all the time. A view (a Reshape and its like) shares its input's storage.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from openglm.model.analysis.inference import subgraphs
from openglm.model.analysis.operations import VIEWS
from openglm.model.analysis.shapes import Shapes


@dataclass(frozen=True)
class Lifetime:
    """One piece of storage."""

    name: str
    first: int
    """The step that makes it."""
    last: int
    """The last step that needs it."""
    nbytes: int


def lifetimes(shapes: Shapes) -> list[Lifetime]:
    """The storage that a graph's tensors need, in order of the steps that make it.

    A value of unknown shape counts no bytes. An If, Loop or Scan is one step; what its worst
    subgraph needs at its peak lives for that step under the node's name.
    """
    return _lifetimes(shapes.graph, shapes)


def peak_activation_bytes(shapes: Shapes) -> int:
    """Bytes of all tensors alive at the worst step, constants apart: no plan can do with less."""
    return peak(lifetimes(shapes))


def peak(tensors: list[Lifetime]) -> int:
    """The most bytes alive at any step."""
    change: dict[int, int] = {}
    for tensor in tensors:
        change[tensor.first] = change.get(tensor.first, 0) + tensor.nbytes
        change[tensor.last + 1] = change.get(tensor.last + 1, 0) - tensor.nbytes
    alive = most = 0
    for step in sorted(change):
        alive += change[step]
        most = max(most, alive)
    return most


def _lifetimes(graph: ir.Graph, shapes: Shapes) -> list[Lifetime]:
    nodes = list(graph)
    end = max(len(nodes) - 1, 0)
    storage = _storage(graph)
    last = {storage[value]: 0 for value in storage}
    scratch = []
    for step, node in enumerate(nodes):
        for value in (*_reads(node), *node.outputs):
            if value in storage:
                last[storage[value]] = step
        if bodies := subgraphs(node):
            need = max(peak(_lifetimes(body, shapes)) for body in bodies)
            scratch.append(Lifetime(node.name or node.op_type, step, step, need))
    for value in graph.outputs:
        if value in storage:
            last[storage[value]] = end
    made = dict.fromkeys(graph.inputs, 0) | {
        value: step for step, node in enumerate(nodes) for value in node.outputs
    }
    owners = [value for value in made if storage.get(value) is value]
    found = [Lifetime(v.name or "", made[v], last[v], shapes.nbytes(v)) for v in owners]
    return sorted(found + scratch, key=lambda tensor: tensor.first)


def _storage(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """For each value that is not a constant, the value whose storage it lies in."""
    storage = {value: value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if node.op_type == "Constant":
            continue
        storage |= {value: value for value in node.outputs}
        source = node.inputs[0] if node.op_type in VIEWS and node.inputs else None
        if source is not None and source in storage:
            storage[node.outputs[0]] = storage[source]
    return storage


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, in its subgraphs too."""
    inner = [value for body in subgraphs(node) for each in body.all_nodes() for value in each.inputs]
    inner += [value for body in subgraphs(node) for value in body.outputs]
    return [value for value in (*node.inputs, *inner) if value is not None]
