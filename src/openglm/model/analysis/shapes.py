"""Every tensor's concrete shape and type, from the sizes of the inputs alone.

One walk in graph order: ONNX's own inference gives each node's outputs from its inputs' shapes,
and small constant tensors (the arithmetic on shapes that exporters leave in a graph) are evaluated
on the way, so that a Reshape whose target is computed is as plain as any other. Weights are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from openglm.errors import InputError, nearest
from openglm.model.analysis.inference import Inference, TensorInfo

Size = Mapping[str, int]


@dataclass(frozen=True)
class Shapes:
    """What `resolve` found. Values of subgraphs are in it too."""

    graph: ir.Graph
    """The graph that was walked: the model's own, or a copy with its functions inlined."""
    dims: dict[str, int]
    """Every symbolic input dimension and the size it was given."""
    of: Mapping[ir.Value, TensorInfo] = field(repr=False)
    """Shape and type by value."""
    constants: Mapping[ir.Value, np.ndarray] = field(repr=False)
    """Small tensors that do not depend on the inputs' contents."""
    unknown: tuple[str, ...]
    """Names of the values whose shape depends on data, or on an operator that is not known."""
    unknown_operators: tuple[str, ...]
    """Operators that neither ONNX nor `contrib` describes, as "domain::Type"."""

    @property
    def by_name(self) -> dict[str, TensorInfo]:
        """Shape and type by the value's name."""
        return {value.name: info for value, info in self.of.items() if value.name}

    def nbytes(self, value: ir.Value | None) -> int:
        """Bytes of a value; 0 where there is none or its shape is unknown."""
        return self.of[value].nbytes if value is not None and value in self.of else 0


def parse_dims(text: str) -> dict[str, int]:
    """Read "batch=1,sequence=128"; raises `InputError` where it does not read like that."""
    dims = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([^\s=]+)\s*=\s*(\d+)", part)
        if not match or int(match[2]) < 1 or match[1] in dims:
            raise InputError(
                f"'{part}' does not say the size of a dimension.",
                "Write each dimension once, as name=size with a size of at least 1: batch=1,sequence=128.",
            )
        dims[match[1]] = int(match[2])
    return dims


def resolve(model: ir.Model, dims: Size | None = None) -> Shapes:
    """The concrete shape and type of every value of `model`.

    `dims` sets symbolic dimensions of the inputs by name; the rest take a default: 1 for a batch,
    128 for a sequence, 224 for height and width, else 1. A dimension with no name is called
    "<input>_<axis>". What cannot be known is listed in `Shapes.unknown`.
    Raises `InputError` for a name in `dims` that no input has. `model` is not changed.
    """
    graph = _without_functions(model).graph
    sizes = _sizes(graph.inputs, dims or {})
    walk = Inference(sizes, dict(model.opset_imports))
    for value in graph.inputs:
        if value.shape is not None and value.dtype is not None:
            shape = tuple(_size(name, sizes) for name in _dim_names(value))
            walk.of[value] = TensorInfo(shape, value.dtype)
    walk.graph(graph)
    return Shapes(
        graph=graph,
        dims=sizes,
        of=walk.of,
        constants=walk.known,
        unknown=tuple(v.name or "?" for v in _values(graph) if v not in walk.of),
        unknown_operators=tuple(sorted(walk.unknown_operators)),
    )


def _without_functions(model: ir.Model) -> ir.Model:
    if not model.functions:
        return model
    from onnx_ir.passes.common import InlinePass

    return InlinePass()(model.clone()).model


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from (output for output in node.outputs if output.name)


def _dim_names(value: ir.Value) -> list[str | int]:
    """The dimensions of an input: a size, a name, or "<input>_<axis>" where the file has no name."""
    assert value.shape is not None
    names: list[str | int] = []
    for axis, dim in enumerate(value.shape):
        text = dim if isinstance(dim, int) else (dim.value or f"{value.name}_{axis}")
        names.append(int(text) if str(text).isdigit() else str(text))
    return names


def _size(name: str | int, sizes: Size) -> int:
    """A dimension's size. Exporters also write sums, such as "past_length + sequence_length"."""
    return name if isinstance(name, int) else sum(_term(term, sizes) for term in _terms(name))


def _terms(name: str) -> list[str]:
    return [term.strip() for term in name.split("+")]


def _term(term: str, sizes: Size) -> int:
    return int(term) if term.isdigit() else sizes[term]


def _sizes(inputs: Sequence[ir.Value], dims: Size) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for value in inputs:
        if value.shape is None:
            continue
        for axis, name in enumerate(_dim_names(value)):
            for term in [] if isinstance(name, int) else _terms(name):
                if not term.isdigit():
                    sizes.setdefault(term, dims.get(term, _default(term, value, axis)))
    for name, size in dims.items():
        if name not in sizes:
            known = nearest(name, sizes) if sizes else "All its input dimensions are fixed."
            raise InputError(f"The model has no input dimension '{name}'.", known)
        if size < 1:
            raise InputError(f"Dimension '{name}' cannot be {size}.", "Give a size of at least 1.")
    return sizes


def _default(name: str, value: ir.Value, axis: int) -> int:
    """A usual size: by what the name says, and where it says nothing by the place in the input."""
    word = name.lower()
    if "batch" in word or word in ("n", "b", "bs"):
        return 1
    if any(part in word for part in ("seq", "len", "time", "token", "frame", "sample")) or word in (
        "s",
        "t",
        "l",
    ):
        return 128
    if any(part in word for part in ("height", "width")) or word in ("h", "w"):
        return 224
    rank = len(value.shape or ())
    if value.dtype == ir.DataType.INT64 and rank == 2 and axis == 1:
        return 128
    return 224 if rank == 4 and axis >= 2 else 1
