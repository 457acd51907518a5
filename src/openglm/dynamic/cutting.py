"""Cuts a graph into the segments of a program: each computes what the ones before it have not.

What crosses a cut has a row for each row of the batch, so that a gate may send rows different ways.
Everything else (shapes, scales of quantized activations) is computed anew where it is needed, and so is what
the inputs alone say of a token: an engine of fixed sizes fills up inputs with zeros, which mean nothing in a
mask of the model's own, and a token to attend to in one that is added to scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx
import onnx_ir as ir

from openglm.errors import InputError
from openglm.model.analysis.shapes import resolve
from openglm.model.tensor import TensorSpec

EXIT, IMPORTANCE, STATES = "exit_", "importance_", "states_"
"""How the names of outputs begin that a graph is to be cut at: the answers of exits, how much each token
matters in a layer, and what that layer's attention gives."""
_CARRIED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL)
"""Types that cross a cut. Quantized activations are made again, for they need their scale with them."""
_EACH = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Constant", "Div", "Equal", "Expand", "Gather", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Reshape",
    "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose result for a token is that token's affair, as long as no axis goes."""
_PARTS = frozenset(("Concat", "Slice"))
"""Operators that are so with sizes alone: of tokens they may put one in another's place."""
_PLACES = frozenset(("GatherND", "Range", "Trilu"))
"""Operators that go by a token's place, which is another one where tokens before it were dropped."""
_SIZES = ((3, 7, 11, 13, 17, 19), (5, 10, 14, 16, 20, 22))
"""Two sizes for each dimension, batch first: an axis has a dimension's size where it has both."""


class Piece(NamedTuple):
    """One segment."""

    graph: ir.Model
    outputs: tuple[TensorSpec, ...]
    """What it gives, in order: first what was asked of it, then what later pieces take."""


def cut(model: ir.Model, stages: Sequence[Mapping[str, str]], *, shortened: bool = False) -> list[Piece]:
    """The segments of `model`, one for each stage, to be run in order; `model` is not changed.
    `shortened` tells that tokens may be dropped between them.

    A stage names the outputs of `model` that are known at its end, and what the segment calls each:
    exits after several layers may all be called "logits". A segment takes inputs of `model` and what
    earlier segments give. Raises `InputError` for an output that is not there, a stage with nothing
    to compute, or a model whose inputs have no batch of any size.
    """
    shapes = _Dimensions(model)
    proto = ir.to_proto(ir.Model(shapes.graph, ir_version=model.ir_version))
    graph = proto.graph
    nodes = list(graph.node)
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    reads = [tuple(dict.fromkeys(_reads(node))) for node in nodes]
    asked = [name for stage in stages for name in stage]
    if missing := next((name for name in asked if name not in {value.name for value in graph.output}), None):
        raise InputError(f"The model has no output '{missing}' to cut it at.", "Name one of its outputs.")

    stage_of: dict[int, int] = {}
    for number, stage in enumerate(stages):
        before = len(stage_of)
        waiting = [producer[name] for name in stage if name in producer]
        while waiting:
            index = waiting.pop()
            if index not in stage_of:
                stage_of[index] = number
                waiting += [producer[name] for name in reads[index] if name in producer]
        if len(stage_of) == before:
            raise InputError(f"Stage {number} of the program has nothing to compute.", "Leave it out.")

    shapes.told = _told(graph, shapes, shortened)
    members = [_with_copies(number, stage_of, reads, producer, shapes) for number in range(len(stages))]
    taken: list[list[str]] = []
    for own in members:
        made = {name for index in own for name in nodes[index].output}
        used = dict.fromkeys(name for index in sorted(own) for name in reads[index])
        taken.append([name for name in used if name in producer and name not in made])
    # An output that a stage before has made already is given there.
    given_at: list[dict[str, str]] = [{} for _ in stages]
    for number, stage in enumerate(stages):
        for name, called in stage.items():
            given_at[stage_of.get(producer.get(name, -1), number)][name] = called
    pieces = []
    for number, stage in enumerate(given_at):
        made = {name for index in members[number] for name in nodes[index].output}
        passed = dict.fromkeys(
            name
            for later in taken[number + 1 :]
            for name in later
            if name in made and stage_of[producer[name]] == number
        )
        given = {**stage, **{name: name for name in passed if name not in stage}}
        if shared := next((name for name in passed if name in stage and stage[name] != name), None):
            # It goes on under its own name, too: an answer that later layers read as well.
            raise InputError(
                f"The output '{shared}' is read by what comes after it.", "Keep its name in the program."
            )
        pieces.append(_piece(proto, [nodes[index] for index in sorted(members[number])],
                             taken[number], given, shapes))  # fmt: skip
    return pieces


class _Dimensions:
    """Which values have a row for each row of the batch, and what their other axes are."""

    def __init__(self, model: ir.Model) -> None:
        found = resolve(model)
        self.graph = found.graph
        firsts = {str(value.shape[0]) if value.shape else "" for value in model.graph.inputs}
        batch = firsts.pop()
        if firsts or batch not in found.dims:
            raise InputError(
                "The model's inputs have no batch of any size in front.",
                "Export it with a batch that may have any size.",
            )
        dims = [batch, *(name for name in found.dims if name != batch)]
        tried = [resolve(model, dict(zip(dims, sizes, strict=False))) for sizes in _SIZES]
        self._names = {tuple(item.dims[name] for item in tried): name for name in dims}
        self._batch = batch
        self._types = {name: info.dtype for name, info in tried[0].by_name.items()}
        first, second = (item.by_name for item in tried)
        self._axes = {
            name: tuple(zip(info.shape, second[name].shape, strict=True))
            for name, info in first.items()
            if name in second and len(info.shape) == len(second[name].shape)
        }
        self.told: set[str] = set()
        """The values that are computed anew, though they have rows."""

    def crosses(self, name: str) -> bool:
        """Whether a value may be handed from one segment to a later one."""
        axes = self._axes.get(name, ())
        rows = bool(axes) and self._names.get(axes[0]) == self._batch
        return rows and self._types[name] in _CARRIED and name not in self.told

    def open(self, name: str) -> set[str]:
        """The dimensions of any size that a value has."""
        return {self._names[axis] for axis in self._axes.get(name, ()) if axis in self._names}

    def spec(self, name: str, called: str) -> TensorSpec:
        """A value's description; raises `InputError` where nothing is known of its shape."""
        if name not in self._axes:
            raise InputError(
                f"The shape of '{name}' depends on the data, or on an operator that is not known.",
                "Cut the model at another output.",
            )
        shape = tuple(
            self._names.get(axis, axis[0] if axis[0] == axis[1] else f"{called}_{place}")
            for place, axis in enumerate(self._axes[name])
        )
        return TensorSpec(name=called, dtype=self._types[name].numpy().name, shape=shape)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, from within its subgraphs too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            known = {value.name for value in (*graph.input, *graph.initializer)}
            for inner in graph.node:
                yield from (name for name in _reads(inner) if name not in known)
                known.update(inner.output)
            yield from (value.name for value in graph.output if value.name not in known)


def _told(graph: onnx.GraphProto, shapes: _Dimensions, shortened: bool) -> set[str]:
    """What the inputs say of each token, without weights."""
    weights = {tensor.name for tensor in graph.initializer}
    known = weights | {value.name for value in graph.input}
    each = _EACH if shortened else _EACH | _PARTS | _PLACES
    for node in graph.node:
        axes = set().union(*map(shapes.open, node.input))
        looks_up = node.op_type.startswith("Gather") and node.input[0] in weights
        if known.issuperset(node.input) and (
            (node.op_type in each and axes <= shapes.open(node.output[0]) and not looks_up)
            or node.op_type == "Shape"
            or (node.op_type in _PARTS and not axes)
        ):
            known.update(node.output)
    return known


def _with_copies(
    number: int,
    stage_of: Mapping[int, int],
    reads: Sequence[Sequence[str]],
    producer: Mapping[str, int],
    shapes: _Dimensions,
) -> set[int]:
    """A stage's nodes, and copies of earlier ones whose results do not cross a cut."""
    own = {index for index, stage in stage_of.items() if stage == number}
    waiting = list(own)
    while waiting:
        for name in reads[waiting.pop()]:
            source = producer.get(name)
            if source is not None and source not in own and not shapes.crosses(name):
                own.add(source)
                waiting.append(source)
    return own


def _piece(
    whole: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    taken: Sequence[str],
    given: Mapping[str, str],
    shapes: _Dimensions,
) -> Piece:
    used = {name for node in nodes for name in _reads(node)}
    proto = onnx.ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import)
    graph = proto.graph
    graph.name = whole.graph.name or "segment"
    graph.node.extend(nodes)
    graph.initializer.extend(tensor for tensor in whole.graph.initializer if tensor.name in used)
    weights = {tensor.name for tensor in graph.initializer}
    graph.input.extend(
        value for value in whole.graph.input if value.name in used and value.name not in weights
    )
    graph.input.extend(_value(shapes.spec(name, name)) for name in taken)
    renamed = {name: called for name, called in given.items() if name != called}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    outputs = tuple(shapes.spec(name, called) for name, called in given.items())
    graph.output.extend(map(_value, outputs))
    return Piece(ir.from_proto(proto), outputs)


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    import numpy as np

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(spec.name, kind, spec.shape)
