"""Integers in NCNN's files: its own tools that write them come with no package.

Matrix products (Gemm) hold int8 weights with a scale for each 64 of a row, and quantize activations as they
come. Convolutions and InnerProduct hold int8 weights with a scale for each output and one scale for what they
take, found on inputs to calibrate on; without such inputs they stay float. Embeddings hold int8 rows, each
with a scale of its own: a second embedding looks it up, since NCNN has one for the whole table only. All
other layers stay float: recurrent ones, transposed convolutions, those in one dimension and those by groups.
(Scales are what NCNN multiplies by to get integers: 127 over the largest magnitude.)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from openglm.errors import InputError
from openglm.runtimes.ncnn_files import (
    Layer,
    Weight,
    read_param,
    read_weights,
    write_param,
    write_weights,
)

BLOCK, IN_BLOCKS = 64, "801"
"""Weights of a product's row that share a scale, and what NCNN calls int8 in such blocks."""
LARGE = 4096
"""Weights of a layer from which integers pay."""
MOST, NARROW = 127, 31
"""The largest integer of weights, and of those that NCNN transforms."""
STATIC = {"Convolution", "ConvolutionDepthWise", "InnerProduct"}
"""Layers that want a scale of what they take."""


def quantize(param: Path, fed: Iterable[Any]) -> None:
    """Make integers of the weights in NCNN's two files; `fed` are extractors of the float graph, each with
    inputs to calibrate on. Raises `InputError` where there are large weights, and none that can be."""
    weights = param.with_suffix(".bin")
    layers = read_param(param)
    read_weights(layers, weights)
    static = [layer for layer in layers if layer.kind in STATIC and not _is_grouped(layer)]
    largest = _largest({layer.inputs[0] for layer in static}, fed)
    made: list[Layer] = []
    for layer in layers:
        if layer.kind == "Gemm" and _is_product(layer):
            _product(layer)
        elif layer.kind == "Embed" and layer.number(3) >= LARGE and not layer.number(2):
            made += _embedding(layer)
            continue
        elif layer in static and largest.get(layer.inputs[0]):
            _static(layer, largest[layer.inputs[0]])
        made.append(layer)
    held = [weight.array for layer in made for weight in layer.weights]
    if any(array.size >= LARGE for array in held) and not any(array.dtype == np.int8 for array in held):
        raise InputError(
            "NCNN has no layer here that takes int8.", "Give inputs to calibrate on, or another precision."
        )
    write_param(made, param)
    write_weights(made, weights)


def _largest(names: Iterable[str], fed: Iterable[Any]) -> dict[str, float]:
    """The largest magnitude of tensors, by their names."""
    found = dict.fromkeys(names, 0.0)
    for extractor in fed:
        for name in found:
            _, value = extractor.extract(name)
            found[name] = max(found[name], float(np.abs(np.array(value)).max(initial=0.0)))
    return found


def _is_product(layer: Layer) -> bool:
    """Whether it is of a matrix that comes and one that is held, rows being outputs, as blocks want."""
    plain = all(layer.number(key) == 0 for key in (2, 4, 11, 12, 13, 14, 18))
    return plain and bool(layer.number(5) and layer.number(3)) and layer.number(8) * layer.number(9) >= LARGE


def _is_grouped(layer: Layer) -> bool:
    """Whether it is a convolution by groups of several channels, whose int8 kernel answers anything."""
    kernel = layer.number(1) * layer.number(11, layer.number(1))
    return layer.kind == "ConvolutionDepthWise" and layer.number(6) != layer.number(0) * kernel


def _product(layer: Layer) -> None:
    outputs, depth = layer.number(8), layer.number(9)
    array = layer.weights[0].array.reshape(outputs, depth)
    blocks = np.pad(array, ((0, 0), (0, -depth % BLOCK))).reshape(outputs, -1, BLOCK)
    whole, scales = _integers(blocks)
    layer.settings[18] = IN_BLOCKS
    layer.weights[0] = Weight(whole.reshape(outputs, -1)[:, :depth], tagged=False)
    layer.weights.append(_scales(scales))


def _embedding(layer: Layer) -> list[Layer]:
    """Layers in place of an embedding."""
    rows = layer.number(1)
    whole, scales = _integers(layer.weights[0].array.reshape(rows, -1))
    ids, name = layer.inputs[0], layer.name
    split = Layer("Split", f"{name}_ids", [ids], [f"{name}_0", f"{name}_1"], {})
    integers = Layer(
        "Embed", f"{name}_integers", [f"{name}_0"], [f"{name}_2"], {**layer.settings, 2: "0", 18: "2"},
        [Weight(whole, tagged=True), _scales(np.ones(1))],
    )  # fmt: skip
    scale = Layer(
        "Embed", f"{name}_scales", [f"{name}_1"], [f"{name}_3"],
        {0: "1", 1: str(rows), 2: "0", 3: str(rows)},
        [Weight((1 / scales).astype(np.float32), tagged=True)],
    )  # fmt: skip
    product = Layer("BinaryOp", name, [f"{name}_2", f"{name}_3"], layer.outputs, {0: "2"})
    return [split, integers, scale, product]


def _static(layer: Layer, largest: float) -> None:
    most = NARROW if layer.kind == "Convolution" and _by_winograd(layer) else MOST
    whole, scales = _integers(layer.weights[0].array.reshape(layer.number(0), -1), most)
    layer.settings[8] = "1" if layer.kind == "ConvolutionDepthWise" else "2"
    layer.weights[0] = Weight(whole, tagged=True)
    layer.weights += [_scales(scales), _scales(np.full(1, MOST / largest))]


def _by_winograd(layer: Layer) -> bool:
    """Whether NCNN may transform it (Winograd's F(4, 3)), in 16 bits, where wider weights overflow."""
    sizes = [layer.number(1), layer.number(11, layer.number(1))]
    steps = [layer.number(key, 1) for key in (2, 3)]
    steps += [layer.number(key + 10, step) for key, step in zip((2, 3), steps, strict=True)]
    return set(sizes) == {3} and set(steps) == {1}


def _integers(array: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of each last axis as integers, and their scales."""
    wide = array.astype(np.float32)
    largest = np.abs(wide).max(-1)
    scales = np.where(largest > 0, most / np.where(largest > 0, largest, 1), 1).astype(np.float32)
    return np.clip(np.rint(wide * scales[..., None]), -most, most).astype(np.int8), scales


def _scales(values: np.ndarray) -> Weight:
    return Weight(values.astype(np.float32), tagged=False)
