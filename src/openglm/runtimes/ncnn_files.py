"""NCNN's two files: .param, the layers one a line, and .bin, their weights one after another.

A line reads: type, name, counts of inputs and outputs, their names, then settings by number, where -23300
less a number stands for a list. Which weights a layer has follows from its settings; each lies in the file
as plain float32, or behind a tag that tells its type. (NCNN's wiki: "param and model file structure".)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = "7767517"
_LISTS = -23300
_HALF, _INT8, _PLAIN = 0x01306B47, 0x000D4B38, 0
_ALIGNED = 4
"""Bytes."""


@dataclass
class Weight:
    """An array of a layer, flat."""

    array: np.ndarray
    tagged: bool
    """Whether its type stands before it; else it is float32 always."""


@dataclass(eq=False)
class Layer:
    """A line of the graph, with its weights."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    settings: dict[int, str]
    weights: list[Weight] = field(default_factory=list)

    def number(self, key: int, default: int = 0) -> int:
        """A setting that is a whole number."""
        return int(float(self.settings.get(key, default)))

    def __str__(self) -> str:
        settings = (f"{key}={value}" for key, value in self.settings.items())
        names = [*self.inputs, *self.outputs]
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        return " ".join([f"{self.kind:<24} {self.name:<24}", counts, *names, *settings])


def read_param(path: Path) -> list[Layer]:
    """The layers, without weights; raises `ValueError` for what is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[:1] != [MAGIC]:
        raise ValueError("it is no file of NCNN's")
    layers = []
    for line in lines[2:]:
        kind, name, takes, gives, *rest = line.split()
        first, last = int(takes), int(takes) + int(gives)
        settings = dict(item.split("=", 1) for item in rest[last:])
        layers.append(
            Layer(
                kind, name, rest[:first], rest[first:last], {int(key): held for key, held in settings.items()}
            )
        )
    return layers


def write_param(layers: list[Layer], path: Path) -> None:
    """Write the graph."""
    counts = f"{len(layers)} {sum(len(layer.outputs) for layer in layers)}"
    path.write_text("\n".join([MAGIC, counts, *map(str, layers)]) + "\n", encoding="utf-8")


def read_weights(layers: list[Layer], path: Path) -> None:
    """Give the layers their weights; raises `ValueError` where a layer's weights are not known here."""
    content, at = path.read_bytes(), 0
    for layer in layers:
        for size, tagged in _layout(layer):
            dtype: np.dtype[Any] = np.dtype(np.float32)
            if tagged:
                tag = int.from_bytes(content[at : at + 4], "little")
                if tag not in (_HALF, _INT8, _PLAIN):
                    raise ValueError(f"the weights of {layer.kind} are not known")
                dtype = np.dtype({_HALF: np.float16, _INT8: np.int8, _PLAIN: np.float32}[tag])
                at += 4
            array = np.frombuffer(content, dtype, size, at)
            layer.weights.append(Weight(array, tagged))
            at += _padded(array.nbytes)
    if at != len(content):
        raise ValueError("it has layers whose weights are not known")


def write_weights(layers: list[Layer], path: Path) -> None:
    """Write the weights of layers."""
    tags = {"float16": _HALF, "int8": _INT8, "float32": _PLAIN}
    with path.open("wb") as file:
        for weight in (weight for layer in layers for weight in layer.weights):
            if weight.tagged:
                file.write(tags[weight.array.dtype.name].to_bytes(4, "little"))
            held = weight.array.tobytes()
            file.write(held.ljust(_padded(len(held)), b"\0"))


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _layout(layer: Layer) -> Iterator[tuple[int, bool]]:
    """The sizes of a layer's weights in their order, and whether they are tagged."""
    find = _LAYOUTS.get(layer.kind)
    return iter(()) if find is None else find(layer)


def _convolution(layer: Layer) -> Iterator[tuple[int, bool]]:
    yield layer.number(6), True
    if layer.number(5):
        yield layer.number(0), False


def _inner_product(layer: Layer) -> Iterator[tuple[int, bool]]:
    yield layer.number(2), True
    if layer.number(1):
        yield layer.number(0), False


def _gemm(layer: Layer) -> Iterator[tuple[int, bool]]:
    rows, columns, depth = (layer.number(key) for key in (7, 8, 9))
    if layer.number(4):
        yield rows * depth, True
    if layer.number(5):
        yield columns * depth, True
    if layer.number(6) and (spread := layer.number(10)) >= 0:
        yield (1, rows, rows, rows * columns, columns)[spread], True


def _embed(layer: Layer) -> Iterator[tuple[int, bool]]:
    yield layer.number(3), True
    if layer.number(2):
        yield layer.number(0), False


def _memory(layer: Layer) -> Iterator[tuple[int, bool]]:
    sizes = (layer.number(key) for key in (0, 1, 11, 2))
    yield int(np.prod([size for size in sizes if size])), layer.number(21, 1) == 0


def _norm(size: int, affine: int) -> Callable[[Layer], Iterator[tuple[int, bool]]]:
    def layout(layer: Layer) -> Iterator[tuple[int, bool]]:
        if layer.number(affine, 1):
            yield layer.number(size), False
            yield layer.number(size), False

    return layout


def _rms_norm(layer: Layer) -> Iterator[tuple[int, bool]]:
    if layer.number(2, 1):
        yield layer.number(0), False


def _batch_norm(layer: Layer) -> Iterator[tuple[int, bool]]:
    for _ in range(4):
        yield layer.number(0), False


def _prelu(layer: Layer) -> Iterator[tuple[int, bool]]:
    yield layer.number(0), False


def _recurrent(gates: int, biases: int) -> Callable[[Layer], Iterator[tuple[int, bool]]]:
    def layout(layer: Layer) -> Iterator[tuple[int, bool]]:
        outputs, ways = layer.number(0), 2 if layer.number(2) == 2 else 1
        yield layer.number(1), True
        yield outputs * biases * ways, True
        yield outputs * outputs * gates * ways, True

    return layout


_LAYOUTS: dict[str, Callable[[Layer], Iterator[tuple[int, bool]]]] = {
    "BatchNorm": _batch_norm,
    "Convolution": _convolution,
    "Convolution1D": _convolution,
    "ConvolutionDepthWise": _convolution,
    "ConvolutionDepthWise1D": _convolution,
    "Deconvolution": _convolution,
    "Deconvolution1D": _convolution,
    "DeconvolutionDepthWise": _convolution,
    "DeconvolutionDepthWise1D": _convolution,
    "Embed": _embed,
    "GRU": _recurrent(3, 4),
    "Gemm": _gemm,
    "GroupNorm": _norm(1, 3),
    "InnerProduct": _inner_product,
    "InstanceNorm": _norm(0, 2),
    "LSTM": _recurrent(4, 4),
    "LayerNorm": _norm(0, 2),
    "MemoryData": _memory,
    "PReLU": _prelu,
    "RMSNorm": _rms_norm,
}
"""By a layer's type; those that are not here have none, or int8 is not to be had."""
