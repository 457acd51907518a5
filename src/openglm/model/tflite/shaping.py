"""Operators that move and make data: shapes, slices, gathering."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from openglm.model.tflite.reading import Operation
from openglm.model.tflite.translation import FIRST, Translation, UnsupportedError

_END = 2**63 - 1
_SYMMETRIC = 1


def _reshape(t: Translation, operation: Operation) -> None:
    x = operation.inputs[0]
    given = len(operation.inputs) > 1
    shape = t.int64(operation.inputs[1]) if given else t.make(operation.options.newShape)
    t.put(operation.outputs[0], t.node("Reshape", t.real(x), shape))


def _transpose(t: Translation, operation: Operation) -> None:
    order = t.integers(operation.inputs[1])
    t.put(operation.outputs[0], t.node("Transpose", t.real(operation.inputs[0]), perm=order))


def _squeeze(t: Translation, operation: Operation) -> None:
    x, given = operation.inputs[0], operation.options.squeezeDims
    axes = [axis for axis, size in enumerate(t.sizes(x)) if size == 1] if given is None else list(given)
    t.put(operation.outputs[0], t.node("Squeeze", t.real(x), t.make(axes)))


def _expand_dims(t: Translation, operation: Operation) -> None:
    axes = t.integers(operation.inputs[1])
    t.put(operation.outputs[0], t.node("Unsqueeze", t.real(operation.inputs[0]), t.make(axes)))


def _pack(t: Translation, operation: Operation) -> None:
    axis = operation.options.axis % t.rank(operation.outputs[0])
    parts = [t.node("Unsqueeze", t.real(place), t.make([axis])) for place in operation.inputs]
    t.put(operation.outputs[0], t.node("Concat", *parts, axis=axis))


def _unpack(t: Translation, operation: Operation) -> None:
    axis = operation.options.axis % t.rank(operation.inputs[0])
    for index, place in enumerate(operation.outputs):
        t.put(place, t.node("Gather", t.real(operation.inputs[0]), t.make(index), axis=axis))


def _split(t: Translation, operation: Operation) -> None:
    if operation.name == "SPLIT":
        (axis,), x = t.integers(operation.inputs[0]), operation.inputs[1]
        axis %= t.rank(x)
        lengths = [t.tensor(place).shape[axis] for place in operation.outputs]
    else:
        x, lengths, (axis,) = (
            operation.inputs[0],
            t.integers(operation.inputs[1]),
            t.integers(operation.inputs[2]),
        )
        axis %= t.rank(x)
        if -1 in lengths:
            lengths = [t.tensor(place).shape[axis] for place in operation.outputs]
    parts = t.nodes("Split", len(lengths), t.real(x), t.make(lengths), axis=axis)
    for place, part in zip(operation.outputs, parts, strict=True):
        t.put(place, part)


def _slice(t: Translation, operation: Operation) -> None:
    x, begin, size = operation.inputs
    lengths = t.integers(size)
    axes = t.make(list(range(t.rank(x))))
    if t.constant(begin) is not None:
        starts = t.integers(begin)
        ends = t.make([_END if n < 0 else start + n for start, n in zip(starts, lengths, strict=True)])
        made = t.node("Slice", t.real(x), t.make(starts), ends, axes)
    elif min(lengths) < 0:
        raise UnsupportedError("its beginning is computed and its end left open")
    else:
        start = t.int64(begin)
        made = t.node("Slice", t.real(x), start, t.node("Add", start, t.make(lengths)), axes)
    t.put(operation.outputs[0], made)


def _strided_slice(t: Translation, operation: Operation) -> None:
    x, *settings = operation.inputs
    begin, end, strides = (t.integers(place) for place in settings)
    options, rank = operation.options, t.rank(x)

    def marked(mask: int, index: int) -> bool:
        return bool(mask >> index & 1)

    starts, ends, steps, axes, dropped, added = [], [], [], [], [], []
    axis = place = 0
    """Of the input, and of the output with what is dropped still there."""
    new = sum(marked(options.newAxisMask, index) for index in range(len(begin)))
    for index, (low, high, step) in enumerate(zip(begin, end, strides, strict=True)):
        if marked(options.ellipsisMask, index):
            covered = rank - (len(begin) - new - 1)
            axis, place = axis + covered, place + covered
            continue
        if marked(options.newAxisMask, index):
            added.append(place)
            place += 1
            continue
        one = marked(options.shrinkAxisMask, index)
        if one:
            high, step = low + 1 or _END, 1
            dropped.append(axis)
        else:
            if options.offset:
                high += low
            if marked(options.beginMask, index):
                low = 0 if step > 0 else _END
            if marked(options.endMask, index):
                high = _END if step > 0 else -_END
            place += 1
        if (low, high, step) != (0, _END, 1):
            starts.append(low)
            ends.append(high)
            steps.append(step)
            axes.append(axis)
        axis += 1
    value = t.real(x)
    if axes:
        value = t.node("Slice", value, t.make(starts), t.make(ends), t.make(axes), t.make(steps))
    if dropped:
        value = t.node("Squeeze", value, t.make(dropped))
    if added:
        value = t.node("Unsqueeze", value, t.make(added))
    t.put(operation.outputs[0], value)


def _pad(t: Translation, operation: Operation) -> None:
    x = operation.inputs[0]
    pairs = np.array(t.integers(operation.inputs[1])).reshape(-1, 2)
    first = t.first(x)
    if first:
        pairs = pairs[list(FIRST)]
    mode, fill = "constant", None
    if operation.name == "MIRROR_PAD":
        if operation.options.mode == _SYMMETRIC:
            raise UnsupportedError("ONNX does not repeat the edge")
        mode = "reflect"
    elif operation.name == "PADV2":
        fill = t.real(operation.inputs[2])
    made = t.node("Pad", t.real(x, first), t.make(pairs.T.reshape(-1)), fill, mode=mode)
    t.put(operation.outputs[0], made, first)


def _gather(t: Translation, operation: Operation) -> None:
    x, places = operation.inputs
    if operation.options.batchDims:
        raise UnsupportedError("it gathers row by row")
    made = t.node("Gather", t.real(x), t.real(places), axis=operation.options.axis)
    t.put(operation.outputs[0], made)


def _embedding(t: Translation, operation: Operation) -> None:
    places, table = operation.inputs
    t.put(operation.outputs[0], t.node("Gather", t.real(table), t.real(places), axis=0))


def _gather_nd(t: Translation, operation: Operation) -> None:
    x, places = operation.inputs
    t.put(operation.outputs[0], t.node("GatherND", t.real(x), t.int64(places)))


def _one_hot(t: Translation, operation: Operation) -> None:
    places, depth, on, off = operation.inputs
    levels = t.node("Concat", *(t.node("Unsqueeze", t.real(each), t.make([0])) for each in (off, on)), axis=0)
    levels = t.cast(levels, ir.DataType.FLOAT)  # engines know few combinations of types
    made = t.node("OneHot", t.int64(places), t.int64(depth), levels, axis=operation.options.axis)
    t.put(operation.outputs[0], t.cast(made, t.type(operation.outputs[0])))


def _shape(t: Translation, operation: Operation) -> None:
    made = t.node("Shape", t.real(operation.inputs[0]))
    t.put(operation.outputs[0], t.cast(made, t.type(operation.outputs[0])))


def _rank(t: Translation, operation: Operation) -> None:
    t.put(operation.outputs[0], t.make(t.rank(operation.inputs[0]), np.int32))


def _expand(t: Translation, operation: Operation) -> None:
    x, shape = operation.inputs if operation.name == "BROADCAST_TO" else operation.inputs[::-1]
    t.put(operation.outputs[0], t.node("Expand", t.real(x), t.int64(shape)))


def _segments(t: Translation, operation: Operation) -> None:
    x, places, count = operation.inputs
    if t.rank(x) != 1:
        raise UnsupportedError("its segments are rows")
    start = t.cast(t.make(np.ones(t.integers(count))), t.type(x))
    made = t.node("ScatterElements", start, t.real(places), t.real(x), reduction="mul")
    t.put(operation.outputs[0], made)


def _zeros_like(t: Translation, operation: Operation) -> None:
    zero = ir.tensor(np.zeros(1, t.type(operation.outputs[0]).numpy()))
    made = t.node("ConstantOfShape", t.node("Shape", t.real(operation.inputs[0])), value=zero)
    t.put(operation.outputs[0], made)


def _tile(t: Translation, operation: Operation) -> None:
    x, times = operation.inputs
    t.put(operation.outputs[0], t.node("Tile", t.real(x), t.int64(times)))


def _range(t: Translation, operation: Operation) -> None:
    t.put(operation.outputs[0], t.node("Range", *(t.real(place) for place in operation.inputs)))


def _reverse(t: Translation, operation: Operation) -> None:
    axes = t.integers(operation.inputs[1])
    bounds = [t.make([number] * len(axes)) for number in (-1, -_END)]
    made = t.node("Slice", t.real(operation.inputs[0]), *bounds, t.make(axes), t.make([-1] * len(axes)))
    t.put(operation.outputs[0], made)


def _blocks(kind: str) -> Any:
    def translate(t: Translation, operation: Operation) -> None:
        value = t.real(operation.inputs[0], first=True)
        made = t.node(kind, value, blocksize=operation.options.blockSize)
        t.put(operation.outputs[0], made, first=True)

    return translate


def _space_to_batch(t: Translation, operation: Operation) -> None:
    """Every n-th place of the spatial axes as a row of the batch: how dilation is written with open sizes."""
    x, block, pads = operation.inputs[0], t.integers(operation.inputs[1]), t.integers(operation.inputs[2])
    spatial, rest = _spatial(t, x, len(block))
    pairs = np.array(pads).reshape(-1, 2)
    wide = np.concatenate([[[0, 0]], pairs, [[0, 0]] * len(rest)])
    value = t.node("Pad", t.real(x), t.make(wide.T.reshape(-1)))
    sizes = [(size + sum(pair)) // n for size, pair, n in zip(spatial, pairs.tolist(), block, strict=True)]
    cut = [each for pair in zip(sizes, block, strict=True) for each in pair]
    count = len(block)
    inner, outer = [2 + 2 * axis for axis in range(count)], [1 + 2 * axis for axis in range(count)]
    last = [1 + 2 * count + axis for axis in range(len(rest))]
    value = t.node("Reshape", value, t.make([-1, *cut, *rest]))
    value = t.node("Transpose", value, perm=[*inner, 0, *outer, *last])
    t.put(operation.outputs[0], t.node("Reshape", value, t.make([-1, *sizes, *rest])))


def _batch_to_space(t: Translation, operation: Operation) -> None:
    """The other way, and the filling cut off."""
    x, block, crops = operation.inputs[0], t.integers(operation.inputs[1]), t.integers(operation.inputs[2])
    spatial, rest = _spatial(t, x, len(block))
    count = len(block)
    pairs = [axis for place in range(count) for axis in (count + 1 + place, place)]
    last = [1 + 2 * count + axis for axis in range(len(rest))]
    value = t.node("Reshape", t.real(x), t.make([*block, -1, *spatial, *rest]))
    value = t.node("Transpose", value, perm=[count, *pairs, *last])
    sizes = [size * n for size, n in zip(spatial, block, strict=True)]
    value = t.node("Reshape", value, t.make([-1, *sizes, *rest]))
    starts = crops[::2]
    ends = [size - crop for size, crop in zip(sizes, crops[1::2], strict=True)]
    axes = t.make(list(range(1, 1 + count)))
    t.put(operation.outputs[0], t.node("Slice", value, t.make(starts), t.make(ends), axes))


def _spatial(t: Translation, place: int, count: int) -> tuple[list[int], list[int]]:
    """The sizes of the axes behind the batch, and of those behind these; raises `UnsupportedError` where one
    is open."""
    sizes = [size for size in t.sizes(place)[1:] if size is not None]
    if len(sizes) != t.rank(place) - 1:
        raise UnsupportedError("its size is open")
    return sizes[:count], sizes[count:]


TABLE = {
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
    "SQUEEZE": _squeeze,
    "EXPAND_DIMS": _expand_dims,
    "PACK": _pack,
    "UNPACK": _unpack,
    "SPLIT": _split,
    "SPLIT_V": _split,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _pad,
    "GATHER": _gather,
    "EMBEDDING_LOOKUP": _embedding,
    "GATHER_ND": _gather_nd,
    "ONE_HOT": _one_hot,
    "SHAPE": _shape,
    "RANK": _rank,
    "FILL": _expand,
    "BROADCAST_TO": _expand,
    "UNSORTED_SEGMENT_PROD": _segments,
    "ZEROS_LIKE": _zeros_like,
    "TILE": _tile,
    "RANGE": _range,
    "REVERSE_V2": _reverse,
    "SPACE_TO_BATCH_ND": _space_to_batch,
    "BATCH_TO_SPACE_ND": _batch_to_space,
    "SPACE_TO_DEPTH": _blocks("SpaceToDepth"),
    "DEPTH_TO_SPACE": _blocks("DepthToSpace"),
}
