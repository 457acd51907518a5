"""How long each tensor of a graph lives, and how many bytes live at once.

Steps are the nodes in the graph's order, or in another that is given. A tensor is alive from the step
that makes it to the last that reads it, both included: while a node runs, its inputs and outputs are there
together. Inputs of the graph are alive from the first step on, outputs to the last. Constants are not
counted: they are there all the time, and so is what is computed from constants alone. A view (a Reshape and
its like) shares its input's storage; so does, where asked for, an elementwise operator's output with an
input that nothing needs any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from openglm.memory.problem import Span, lower_bound
from openglm.model.analysis.inference import subgraphs
from openglm.model.analysis.operations import VIEWS
from openglm.model.analysis.shapes import Shapes

ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "Ceil", "Celu", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu"),
        *("HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu"),
        *("Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign"),
        *("Sqrt", "Sub", "Sum", "Tanh", "ThresholdedRelu"),
    )
)
"""Operators that read each element of an input before they write the same element, and not again."""


@dataclass(frozen=True)
class Lifetime:
    """One piece of storage."""

    name: str
    first: int
    """The step that makes it."""
    last: int
    """The last step that needs it."""
    nbytes: int
    values: tuple[str, ...] = ()
    """The tensors that lie in it: itself, its views, and what was computed in its place."""


def lifetimes(
    shapes: Shapes,
    *,
    order: Sequence[ir.Node] | None = None,
    in_place: bool = False,
    over_inputs: bool = True,
) -> list[Lifetime]:
    """The storage that a graph's tensors need, in order of the steps that make it.

    `order` has the graph's nodes, each after those it reads of; the graph's own if not given.
    With `in_place` an elementwise operator writes over an input of the same size and type that is
    read there for the last time; without `over_inputs` the graph's own inputs are spared. A value
    of unknown shape counts no bytes. An If, Loop or Scan is one step; what its worst subgraph needs
    at its peak lives for that step under the node's name.
    """
    return _lifetimes(shapes.graph, shapes, order, in_place, over_inputs)


def peak_activation_bytes(shapes: Shapes) -> int:
    """Bytes of all tensors alive at the worst step, constants apart, elementwise operators writing in place:
    in this order no plan can do with less."""
    return peak(lifetimes(shapes, in_place=True))


def peak(tensors: list[Lifetime]) -> int:
    """The most bytes alive at any step."""
    return lower_bound([Span(tensor.first, tensor.last + 1, tensor.nbytes) for tensor in tensors])


def scratch_bytes(node: ir.Node, shapes: Shapes) -> int:
    """What the worst subgraph of a node needs at its peak; 0 where it has none."""
    return max((peak(_lifetimes(body, shapes)) for body in subgraphs(node)), default=0)


def _lifetimes(
    graph: ir.Graph,
    shapes: Shapes,
    order: Sequence[ir.Node] | None = None,
    in_place: bool = False,
    over_inputs: bool = True,
) -> list[Lifetime]:
    nodes = list(graph) if order is None else list(order)
    end = max(len(nodes) - 1, 0)
    storage = storages(graph)
    last = dict.fromkeys(storage.values(), 0)
    scratch = []
    for step, node in enumerate(nodes):
        for value in (*reads(node), *node.outputs):
            if value in storage:
                last[storage[value]] = step
        if subgraphs(node):
            scratch.append(Lifetime(node.name or node.op_type, step, step, scratch_bytes(node, shapes)))
    for value in graph.outputs:
        if value in storage:
            last[storage[value]] = end
    if in_place:
        spared = {*graph.outputs, *(() if over_inputs else graph.inputs)}
        _write_over(nodes, shapes, storage, last, spared)
    made = dict.fromkeys(graph.inputs, 0) | {
        value: step for step, node in enumerate(nodes) for value in node.outputs
    }
    inside: dict[ir.Value, list[str]] = {}
    for value in made:
        if value in storage:
            inside.setdefault(storage[value], []).append(value.name or "")
    found = [
        Lifetime(owner.name or "", made[owner], last[owner], shapes.nbytes(owner), tuple(names))
        for owner, names in inside.items()
    ]
    return sorted(found + scratch, key=lambda tensor: tensor.first)


def _write_over(
    nodes: Iterable[ir.Node],
    shapes: Shapes,
    storage: dict[ir.Value, ir.Value],
    last: dict[ir.Value, int],
    spared: set[ir.Value],
) -> None:
    """Put elementwise outputs where an input dies, but not over what is spared; `storage` and `last` are
    changed."""
    inside: dict[ir.Value, list[ir.Value]] = {}
    for value, owner in storage.items():
        inside.setdefault(owner, []).append(value)
    for step, node in enumerate(nodes):
        read = [storage[value] for value in writable(node, shapes, storage)]
        dying = (owner for owner in read if last[owner] == step and spared.isdisjoint(inside[owner]))
        for owner in [*dying][:1]:
            moved = inside.pop(node.outputs[0])
            storage.update(dict.fromkeys(moved, owner))
            inside[owner] += moved
            last[owner] = last.pop(node.outputs[0])


def writable(node: ir.Node, shapes: Shapes, storage: dict[ir.Value, ir.Value]) -> list[ir.Value]:
    """The inputs that a node could write its output over, were they not needed after it."""
    if node.op_type not in ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return []
    info = shapes.of.get(node.outputs[0])
    return [
        value
        for value in node.inputs
        if value is not None and value in storage and info is not None and shapes.of.get(value) == info
    ]


def storages(graph: ir.Graph) -> dict[ir.Value, ir.Value]:
    """The value whose storage each value lies in, itself or a view's source; constants have none."""
    storage = {value: value for value in graph.inputs if not value.is_initializer()}
    constant = constants(graph)
    for node in graph:
        if node in constant:
            continue
        storage |= {value: value for value in node.outputs}
        source = node.inputs[0] if node.op_type in VIEWS and node.inputs else None
        if source is not None and source in storage:
            storage[node.outputs[0]] = storage[source]
    return storage


def constants(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that give the same each time: all that they read is constant."""
    found: set[ir.Node] = set()
    for node in graph:
        read = ((value, value.producer()) for value in reads(node))
        if node.op_type not in _RANDOM and all(
            value.is_initializer() or maker in found for value, maker in read
        ):
            found.add(node)
    return found


_RANDOM = frozenset(("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"))


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, in its subgraphs too."""
    inner = [value for body in subgraphs(node) for each in body.all_nodes() for value in each.inputs]
    inner += [value for body in subgraphs(node) for value in body.outputs]
    return [value for value in (*node.inputs, *inner) if value is not None]
