"""A .tflite graph as an ONNX graph that computes the same.

Pictures lie channels last in TensorFlow Lite and channels first in ONNX. Each tensor is kept in the layout
in which it was made, and transposed only where an operator wants the other. Quantized tensors become
QuantizeLinear and DequantizeLinear around float operators: what integer kernels give, to the last step of
an output's scale. What has no counterpart becomes a node of the domain "tflite", which nothing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from openglm.model.tflite.reading import File, Operation, Subgraph, Tensor, dimensions

DOMAIN = "tflite"
OPSET = 20
FIRST = (0, 3, 1, 2)
"""From channels last to channels first."""
LAST = (0, 2, 3, 1)
_NARROW = ("int8", "uint8", "int16")


class UnsupportedError(Exception):
    """An operator in a form that ONNX does not have."""


class Translation:
    """One subgraph on its way into ONNX.

    Values are given by the places of tensors in the file; with `first`, channels first.
    """

    def __init__(self, graph: Subgraph, tape: Tape, names: set[str], outer: str = "") -> None:
        self.graph, self._tape, self._names, self._outer = graph, tape, names, outer
        self._real: dict[tuple[int, bool], ir.Value] = {}
        self._held: dict[tuple[int, bool], ir.Value] = {}
        """Quantized tensors as they are stored."""
        self._constants: dict[Any, ir.Value] = {}
        self._same: dict[int, int] = {}
        """Constants that an operator hands on, by the place where it leaves them."""
        self._scope = ""

    def tensor(self, place: int) -> Tensor:
        """What the file says of a tensor."""
        return self.graph.tensors[place]

    def rank(self, place: int) -> int:
        """How many dimensions it has."""
        return len(self.tensor(place).shape)

    def sizes(self, place: int) -> list[int | None]:
        """Its sizes, none for open ones."""
        tensor = self.tensor(place)
        return [None if free else size for size, free in zip(tensor.shape, tensor.open, strict=True)]

    def type(self, place: int) -> ir.DataType:
        """Its type in ONNX, a quantized one's that of the numbers it stands for."""
        return ir.DataType.FLOAT if self._quantized(place) else ir.DataType[self._onnx(place)]

    def constant(self, place: int) -> np.ndarray | None:
        """A constant's numbers as stored; none for what is computed."""
        return self.tensor(self._same.get(place, place)).array

    def integers(self, place: int) -> list[int]:
        """A constant's numbers, flat; raises `UnsupportedError` for what is computed."""
        if (array := self.constant(place)) is None:
            raise UnsupportedError("its settings are computed")
        return [int(number) for number in array.reshape(-1)]

    def first(self, *places: int) -> bool:
        """Whether an operator on these element by element ought to work channels first: where one of them
        is there in that layout alone, and the others are too, or are constants."""
        computed = [place for place in places if self.constant(place) is None]
        there = [(place, True) in self._real and self.rank(place) == 4 for place in computed]
        last = all((place, False) in self._real for place in computed)
        return bool(computed) and all(there) and not last and all(self.rank(place) <= 4 for place in places)

    def real(self, place: int, first: bool = False) -> ir.Value:
        """The numbers of a tensor; those that a quantized one stands for."""
        if self.constant(place) is not None:
            return self._broadcast(place) if first else self.weight(place)
        if (place, first) not in self._real:
            if (place, not first) in self._held:  # an engine wants conversions next to its operators
                self._held[place, first] = self.turned(self._held[place, not first], first)
                value = self._dequantized(self._held[place, first], self.tensor(place), None)
            else:
                value = self.turned(self._real[place, not first], first)
            self._real[place, first] = value
        return self._real[place, first]

    def turned(self, value: ir.Value, first: bool) -> ir.Value:
        """A value of 4 dimensions in the other layout."""
        return self.node("Transpose", value, perm=FIRST if first else LAST)

    def weight(self, place: int, order: Sequence[int] | None = None) -> ir.Value:
        """The numbers of a constant, its dimensions in another order where one is given."""
        place = self._same.get(place, place)
        order = tuple(range(self.rank(place)) if order is None else order)
        array = self.constant(place)
        assert array is not None
        return self._kept((place, order), array.transpose(order), place, order)

    def _broadcast(self, place: int) -> ir.Value:
        """A constant as it is broadcast against what lies channels first."""
        place = self._same.get(place, place)
        array = self.constant(place)
        assert array is not None
        if array.size == 1:
            return self.weight(place)
        missing = 4 - array.ndim
        wide = array.reshape((1,) * missing + array.shape).transpose(FIRST)
        order = tuple(axis - missing for axis in FIRST)
        return self._kept((place, "first"), wide, place, order)

    def _kept(self, key: Any, array: np.ndarray, place: int, order: Sequence[int]) -> ir.Value:
        if key not in self._constants:
            tensor = self.tensor(place)
            if not tensor.plain:
                raise UnsupportedError("a weight is stored in blocks or sparsely")
            value = self._stored(tensor, array)
            if tensor.scheme is not None and tensor.dtype in (*_NARROW, "int4", "int32"):
                value = self._dequantized(value, tensor, list(order).index(tensor.scheme.axis) if
                                          len(tensor.scheme.scale) > 1 else None)  # fmt: skip
            elif tensor.dtype in ("float16", "bfloat16"):
                value = self.node("Cast", value, to=int(ir.DataType.FLOAT))
            self._constants[key] = value
        return self._constants[key]

    def _stored(self, tensor: Tensor, array: np.ndarray) -> ir.Value:
        name = self.unique(tensor.name or "constant")
        array = np.array(array, order="C")
        dtype = ir.DataType.INT4 if tensor.dtype == "int4" else ir.DataType.from_numpy(array.dtype)
        held = ir.tensor(array, dtype=dtype, name=name)
        return self._tape.initializer(held, name=name)

    def make(self, array: Any, dtype: Any = np.int64) -> ir.Value:
        """A constant of a setting."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.unique("setting")
            self._constants[key] = self._tape.initializer(ir.tensor(array, name=name), name=name)
        return self._constants[key]

    def int64(self, place: int) -> ir.Value:
        """Integers in the type that ONNX has shapes in."""
        if (array := self.constant(place)) is not None:
            return self.make(array)
        return self.cast(self.real(place), ir.DataType.INT64)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in another type."""
        return self.node("Cast", value, to=int(dtype))

    def node(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """What an ONNX operator gives."""
        return self._tape.op(kind, inputs, attributes, name=self._named(kind))

    def nodes(self, kind: str, count: int, *inputs: ir.Value | None, **attributes: Any) -> list[ir.Value]:
        """What an ONNX operator of several outputs gives."""
        return list(
            self._tape.op_multi_out(kind, inputs, attributes, num_outputs=count, name=self._named(kind))
        )

    def put(self, place: int, value: ir.Value, first: bool = False) -> None:
        """Leave what a tensor is; a quantized one is rounded to its steps."""
        if self._quantized(place):
            tensor = self.tensor(place)
            assert tensor.scheme is not None
            scale, zero = self._scales(tensor, tensor.dtype)
            self._held[place, first] = self.node("QuantizeLinear", value, scale, zero)
            value = self._dequantized(self._held[place, first], tensor, None)
        self._real[place, first] = value

    def hand_on(self, source: int, place: int) -> None:
        """Leave a constant as another tensor."""
        self._same[place] = self._same.get(source, source)

    def take(self, place: int, value: ir.Value) -> None:
        """Set an input of the graph, in the type of the file."""
        if self._quantized(place):
            self._held[place, False] = value
            value = self._dequantized(value, self.tensor(place), None)
        self._real[place, False] = value

    def give(self, place: int) -> ir.Value:
        """An output of the graph, in the type of the file."""
        if not self._quantized(place) or self.constant(place) is not None:
            return self.real(place)
        if (place, False) not in self._held:
            self._held[place, False] = self.turned(self._held[place, True], False)
        return self._held[place, False]

    def unique(self, name: str) -> str:
        """A name that nothing else has, made of a tensor's."""
        start = name.partition(";")[0]
        found, number = start, 1
        while found in self._names:
            number += 1
            found = f"{start}_{number}"
        self._names.add(found)
        return found

    def run(self, table: Mapping[str, Callable[[Translation, Operation], None]]) -> None:
        """Translate all operations, in order."""
        for operation in self.graph.operations:
            made = self.tensor(operation.outputs[0]).name if operation.outputs else ""
            self._scope = f"{self._outer}/{_path(made or operation.name)}"
            try:
                if operation.name not in table:
                    raise UnsupportedError("it has no counterpart")
                table[operation.name](self, operation)
            except UnsupportedError:
                self._opaque(operation)

    def inline(self, graph: Subgraph, operation: Operation, table: Any) -> None:
        """Translate a graph that an operation stands for in its place."""
        inner = Translation(graph, self._tape, self._names, self._scope)
        for place, source in zip(graph.inputs, operation.inputs, strict=False):
            inner._real[place, False] = self.real(source)
        inner.run(table)
        for place, source in zip(operation.outputs, graph.outputs, strict=False):
            self._real[place, False] = inner.real(source)

    def _opaque(self, operation: Operation) -> None:
        inputs = [None if place < 0 else self._any(place) for place in operation.inputs]
        outputs = []
        for place in operation.outputs:
            shape = ir.Shape(dimensions(self.tensor(place).name, self.tensor(place)))
            name = self.unique(self.tensor(place).name or operation.name)
            handle = self.tensor(place).dtype in ("resource", "variant")
            dtype = ir.DataType.INT64 if handle else self.type(place)
            value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
            outputs.append(value)
            self._real[place, False] = value
        self._tape.op_multi_out(
            operation.name, inputs, outputs=outputs, domain=DOMAIN, name=self._named(operation.name)
        )
        for place, value in zip(operation.outputs, outputs, strict=True):
            if self._quantized(place):
                self.put(place, value)

    def _any(self, place: int) -> ir.Value | None:
        """What an operator that nothing runs takes: weights in blocks and variables too."""
        tensor, array = self.tensor(place), self.constant(place)
        if array is not None:
            return self._stored(tensor, array)
        known = (place, False) in self._real or (place, True) in self._real
        return self.real(place) if known else None

    def _named(self, kind: str) -> str:
        return self.unique(f"{self._scope or self._outer}/{kind}")

    def _onnx(self, place: int) -> str:
        name = self.tensor(place).dtype.upper()
        return {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE"}.get(name, name)

    def _quantized(self, place: int) -> bool:
        tensor = self.tensor(place)
        return tensor.scheme is not None and tensor.dtype in _NARROW and len(tensor.scheme.scale) == 1

    def _scales(self, tensor: Tensor, dtype: str) -> tuple[ir.Value, ir.Value]:
        assert tensor.scheme is not None
        scale, zero = tensor.scheme.scale, tensor.scheme.zero_point
        if len(scale) == 1:
            scale, zero = scale[0], zero[0]
        if dtype != "int4":
            return self.make(scale, np.float32), self.make(zero, dtype)
        name = self.unique("setting")
        held = ir.tensor(np.asarray(zero, np.int8), dtype=ir.DataType.INT4, name=name)
        return self.make(scale, np.float32), self._tape.initializer(held, name=name)

    def _dequantized(self, value: ir.Value, tensor: Tensor, axis: int | None) -> ir.Value:
        scale, zero = self._scales(tensor, tensor.dtype)
        settings = {} if axis is None else {"axis": axis}
        return self.node("DequantizeLinear", value, scale, zero, **settings)


def _path(name: str) -> str:
    """A tensor's name as the path of a module: of those that were fused, the first's."""
    return name.partition(";")[0].partition(":")[0].strip("/").replace(".", "_")


def translate(file: File, name: str) -> ir.Model:
    """The first subgraph of a file in ONNX, its inputs and outputs named and typed as in the file."""
    from openglm.model.tflite.operators import table

    main = file.subgraphs[0]
    names = {*file.input_names, *file.output_names}
    tape = Tape()
    translation = Translation(main, tape, names)
    inputs = []
    for spec, place in zip(file.inputs, main.inputs, strict=True):
        dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
        value = ir.Value(name=spec.name, shape=ir.Shape(spec.shape), type=ir.TensorType(dtype))
        inputs.append(value)
        translation.take(place, value)
    translation.run(table(file))
    outputs = []
    for spec, place in zip(file.outputs, main.outputs, strict=True):
        value = translation.give(place)
        if value.producer() is None or value in outputs:
            value = translation.node("Identity", value)
        value.name = spec.name
        value.shape = ir.Shape(spec.shape)
        value.dtype = ir.DataType.from_numpy(np.dtype(spec.dtype))
        outputs.append(value)
    graph = ir.Graph(
        inputs, outputs, nodes=tape.nodes, initializers=tape.initializers,
        opset_imports={"": _opset(main)}, name=name,
    )  # fmt: skip
    if any(node.domain == DOMAIN for node in graph):
        graph.opset_imports[DOMAIN] = 1
    return RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10, producer_name="openglm")).model


def _opset(graph: Subgraph) -> int:
    """What the types of the graph want: 4 and 16 bits are quantized from opset 21 on."""
    return (
        21 if any(tensor.scheme and tensor.dtype in ("int4", "int16") for tensor in graph.tensors) else OPSET
    )
