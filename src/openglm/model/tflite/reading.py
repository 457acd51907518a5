"""Reading a .tflite file with checks (https://ai.google.dev/edge/litert, schema version 3).

An engine's own code trusts what it reads. So every place and size in a file is checked here first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from openglm.errors import InputError, MissingExtraError
from openglm.model.tensor import NUMBERS, TensorSpec

MAGIC = b"TFL3"
_AGAIN = "Convert or copy it again."
_MOST = 2**30
"""Elements of a tensor; LiteRT would ask for all of their memory."""
_BROKEN = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What reading a flatbuffer whose offsets lead nowhere raises."""

DTYPES = (
    "float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64", "int8",
    "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16", "int4", "bfloat16",
    "int2", "uint4",
)  # fmt: skip
"""Names of the types, by their numbers in the schema."""
_BITS = {
    "float32": 32, "float16": 16, "int32": 32, "uint8": 8, "int64": 64, "bool": 8, "int16": 16,
    "complex64": 64, "int8": 8, "float64": 64, "complex128": 128, "uint64": 64, "uint32": 32, "uint16": 16,
    "int4": 4, "bfloat16": 16, "int2": 2, "uint4": 4,
}  # fmt: skip


class Scheme:
    """How a tensor's integers stand for numbers: (integer - zero point) * scale."""

    def __init__(self, scale: np.ndarray, zero_point: np.ndarray, axis: int) -> None:
        self.scale, self.zero_point, self.axis = scale, zero_point, axis
        """float32 and int64, both (1,), or one for each place of `axis`."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a subgraph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    open: tuple[bool, ...]
    """Which dimensions may take any size; `shape` then has what the file was converted with."""
    data: np.ndarray | None
    """A constant's bytes; none for what is computed."""
    scheme: Scheme | None
    plain: bool
    """Whether it is stored densely, with at most one scale and zero point for each place of an axis."""
    variable: bool
    """Whether it keeps what it held from one run to the next."""

    @property
    def nbytes(self) -> int | None:
        """Bytes that it takes; none where its type says nothing of it."""
        bits = _BITS.get(self.dtype)
        return None if bits is None else -(-prod(self.shape) * bits // 8)

    @property
    def array(self) -> np.ndarray | None:
        """A constant's numbers as they are stored, 4-bit ones in int8; none for what is computed."""
        if self.data is None:
            return None
        if self.dtype in ("int4", "uint4"):
            pairs = self.data.view(np.uint8)
            flat = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1)[: prod(self.shape)]
            signed = np.where(flat > 7, flat.astype(np.int8) - 16, flat) if self.dtype == "int4" else flat
            return signed.astype(np.int8).reshape(self.shape)
        return self.data.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Operation:
    """A step of a subgraph; inputs and outputs are places of tensors, -1 an input that is left out."""

    name: str
    """As the schema has it: "CONV_2D"; of a custom operator its own name."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    """The operator's settings, an object of the schema; none where it has none."""


@dataclass(frozen=True)
class Subgraph:
    """One graph of a file."""

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class File:
    """What a .tflite file holds. The first subgraph is the model; others are what its operators call."""

    subgraphs: tuple[Subgraph, ...]
    input_names: tuple[str, ...]
    """By the signature of the first subgraph; where the file has none, the names of tensors."""
    output_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for names in (self.input_names, self.output_names):
            if len(set(names)) < len(names):
                raise ValueError("two of its inputs or outputs have one name")

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in the types of the file: integers where it is quantized to the ends."""
        return self._specs(self.input_names, self.subgraphs[0].inputs)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self._specs(self.output_names, self.subgraphs[0].outputs)

    @cached_property
    def stateful(self) -> bool:
        """Whether a run's answers depend on the runs before it."""
        return any(
            any(tensor.variable for tensor in graph.tensors)
            or any(operation.name == "VAR_HANDLE" for operation in graph.operations)
            for graph in self.subgraphs
        )

    @cached_property
    def scales(self) -> dict[str, tuple[float, int]]:
        """Scale and zero point of the inputs and outputs that are quantized, by name."""
        main = self.subgraphs[0]
        named = zip((*self.input_names, *self.output_names), (*main.inputs, *main.outputs), strict=True)
        schemes = {name: main.tensors[place].scheme for name, place in named}
        return {
            name: (float(scheme.scale[0]), int(scheme.zero_point[0]))
            for name, scheme in schemes.items()
            if scheme is not None
        }

    def _specs(self, names: Sequence[str], places: Sequence[int]) -> tuple[TensorSpec, ...]:
        tensors = [self.subgraphs[0].tensors[place] for place in places]
        for name, tensor in zip(names, tensors, strict=True):
            if not re.match(NUMBERS, tensor.dtype):
                raise InputError(
                    f"The model's '{name}' is not a tensor of numbers but of type {tensor.dtype}.",
                    "Only tensors of numbers in and out are supported.",
                )
        return tuple(
            TensorSpec(name=name, dtype=tensor.dtype, shape=dimensions(name, tensor))
            for name, tensor in zip(names, tensors, strict=True)
        )


def dimensions(name: str, tensor: Tensor) -> tuple[int | str, ...]:
    """A tensor's sizes; an open one has a name, "batch" where it is the first."""
    return tuple(
        size if not free else "batch" if axis == 0 else f"{name}_{axis}"
        for axis, (size, free) in enumerate(zip(tensor.shape, tensor.open, strict=True))
    )


def read(path: Path) -> File:
    """Read and check a .tflite file.

    Raises `InputError` for a file that is missing, truncated or no .tflite, `MissingExtraError` where
    LiteRT, whose schema it is read by, is not installed.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.", "Check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error
    if content[4:8] != MAGIC:
        raise InputError(f"{path} is no .tflite file: its beginning does not say {MAGIC.decode()}.", _AGAIN)
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise MissingExtraError("LiteRT, which reads .tflite files,", "litert") from error
    try:
        return _file(schema.ModelT.InitFromPackedBuf(content, 0), content, _operators(schema))
    except _BROKEN as error:
        said = str(error).strip() if type(error) is ValueError else type(error).__name__
        raise InputError(f"{path} is not a whole .tflite file ({said[:150]}).", _AGAIN) from error


def _operators(schema: Any) -> dict[int, str]:
    return {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}


def _file(model: Any, content: bytes, operators: dict[int, str]) -> File:
    if model.version != 3:
        raise ValueError(f"its version is {model.version}")
    codes = [_code(each, operators) for each in model.operatorCodes or ()]
    buffers = [_buffer(each, content) for each in model.buffers or ()]
    subgraphs = tuple(_subgraph(each, codes, buffers) for each in model.subgraphs or ())
    if not subgraphs or not subgraphs[0].outputs:
        raise ValueError("it holds no graph")
    main = subgraphs[0]
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            inputs, outputs = (_named(given or ()) for given in (signature.inputs, signature.outputs))
            if set(inputs) != set(main.inputs) or set(outputs) != set(main.outputs):
                raise ValueError("its signature names other tensors than its graph")
            return File(
                subgraphs,
                tuple(inputs[place] for place in main.inputs),
                tuple(outputs[place] for place in main.outputs),
            )

    def names(places: Sequence[int]) -> tuple[str, ...]:
        return tuple(main.tensors[place].name or f"tensor_{place}" for place in places)

    return File(subgraphs, names(main.inputs), names(main.outputs))


def _named(maps: Sequence[Any]) -> dict[int, str]:
    return {each.tensorIndex: _text(each.name) for each in maps}


def _code(code: Any, operators: dict[int, str]) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)  # the older field ends at 127
    if operators.get(number) == "CUSTOM":
        return _text(code.customCode) or "CUSTOM"
    return operators.get(number, f"OPERATOR_{number}")


def _buffer(buffer: Any, content: bytes) -> np.ndarray | None:
    if buffer.offset > 1:  # large files keep data behind the flatbuffer
        if buffer.offset + buffer.size > len(content):
            raise ValueError("its data ends too early")
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    if buffer.data is None or not len(buffer.data):
        return None
    return np.asarray(buffer.data, np.uint8)


def _subgraph(graph: Any, codes: Sequence[str], buffers: Sequence[np.ndarray | None]) -> Subgraph:
    tensors = tuple(_tensor(each, buffers) for each in graph.tensors or ())

    def places(given: Any, lowest: int = 0) -> tuple[int, ...]:
        found = tuple(int(place) for place in (() if given is None else given))
        if any(not lowest <= place < len(tensors) for place in found):
            raise ValueError("it names a tensor that it does not have")
        return found

    def operations() -> Iterator[Operation]:
        for each in graph.operators or ():
            if not 0 <= each.opcodeIndex < len(codes):
                raise ValueError("it names an operator that it does not have")
            yield Operation(
                codes[each.opcodeIndex],
                places(each.inputs, -1),
                places(each.outputs),
                each.builtinOptions or each.builtinOptions2,
            )

    return Subgraph(tensors, tuple(operations()), places(graph.inputs), places(graph.outputs))


def _tensor(tensor: Any, buffers: Sequence[np.ndarray | None]) -> Tensor:
    name = _text(tensor.name)
    shape = tuple(int(size) for size in (() if tensor.shape is None else tensor.shape))
    wide = shape if tensor.shapeSignature is None else tuple(int(size) for size in tensor.shapeSignature)
    if len(wide) != len(shape):
        wide = shape
    if any(size < 0 for size in shape) or prod(shape) >= _MOST:
        raise ValueError(f"the tensor '{name}' has the shape {list(shape)}")
    if not 0 <= tensor.type < len(DTYPES):
        raise ValueError(f"the tensor '{name}' is of an unknown type")
    if not 0 <= tensor.buffer < len(buffers):
        raise ValueError(f"the tensor '{name}' has no data")
    dtype, data = DTYPES[tensor.type], buffers[tensor.buffer]
    plain = tensor.sparsity is None and dtype in _BITS
    if data is not None and plain and len(data) != -(-prod(shape) * _BITS[dtype] // 8):
        raise ValueError(f"the tensor '{name}' has not as many values as its shape says")
    quantization = tensor.quantization
    scheme = None if quantization is None else _scheme(quantization, name, shape)
    blocks = quantization is not None and quantization.details is not None
    return Tensor(
        name, dtype, shape, tuple(size < 0 for size in wide), data if plain else None, scheme,
        plain and not blocks, bool(tensor.isVariable),
    )  # fmt: skip


def _scheme(quantization: Any, name: str, shape: Sequence[int]) -> Scheme | None:
    if quantization.scale is None or not len(quantization.scale):
        return None
    scale = np.asarray(quantization.scale, np.float32)
    given = quantization.zeroPoint
    zero_point = np.zeros(len(scale), np.int64) if given is None else np.asarray(given, np.int64)
    if len(zero_point) == 1:
        zero_point = np.repeat(zero_point, len(scale))
    axis = int(quantization.quantizedDimension)
    fits = len(scale) == 1 or (0 <= axis < len(shape) and shape[axis] == len(scale))
    if not fits or len(zero_point) != len(scale):
        raise ValueError(f"the scales of the tensor '{name}' do not go with its shape")
    return Scheme(scale, zero_point, axis)


def _text(text: bytes | str | None) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text or ""
