"""Operators on shapes, and what is taken from arrays by place.

Parameters are those of ONNX's operators, as in `operators`. What follows from shapes alone stays in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from openglm.runtimes.mlx_graph.held import Held, device, host, numbers, together


def shape(x: Held, *, start: int = 0, end: int | None = None) -> np.ndarray:
    return np.array(x.shape, np.int64)[start:end]


def size(x: Held) -> np.ndarray:
    return np.array(math.prod(x.shape), np.int64)


def reshape(x: Held, shape: Held, *, allowzero: int = 0) -> Held:
    wanted = numbers(shape)
    if not allowzero:
        wanted = [x.shape[place] if size == 0 else size for place, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Held, *, axis: int = 1) -> Held:
    rows = math.prod(x.shape[:axis])
    return x.reshape(rows, math.prod(x.shape[axis:]))


def transpose(x: Held, *, perm: Sequence[int] | None = None) -> Held:
    return x.transpose(list(perm or reversed(range(x.ndim))))


def squeeze(x: Held, axes: Held = None) -> Held:
    return x.squeeze(None if axes is None else tuple(numbers(axes)))


def unsqueeze(x: Held, axes: Held) -> Held:
    library, (x,) = together([x])
    return library.expand_dims(x, tuple(numbers(axes)))


def concat(*given: Held, axis: int) -> Held:
    library, values = together(given)
    return library.concatenate(values, axis)


def split(
    x: Held, split: Held = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 0
) -> Sequence[Held]:
    library, (x,) = together([x])
    if split is None:
        part = -(-x.shape[axis] // (num_outputs or outputs))
        cuts = list(range(part, x.shape[axis], part))
    else:
        cuts = np.cumsum(numbers(split))[:-1].tolist()
    found: Sequence[Held] = library.split(x, cuts, axis)
    return found


def sliced(x: Held, starts: Held, ends: Held, axes: Held = None, steps: Held = None) -> Held:
    first, last = numbers(starts), numbers(ends)
    places = range(len(first)) if axes is None else numbers(axes)
    strides = [1] * len(first) if steps is None else numbers(steps)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(places, first, last, strides, strict=True):
        begin, stop, step = slice(start, end, step).indices(x.shape[axis])
        index[axis] = slice(begin, None if stop < 0 else stop, step)
    return x[tuple(index)]


def gather(x: Held, indices: Held, *, axis: int = 0) -> Held:
    library, (x, indices) = together([x, indices])
    return library.take(x, indices, axis)


def gather_elements(x: Held, indices: Held, *, axis: int = 0) -> Held:
    library, (x, indices) = together([x, indices])
    return library.take_along_axis(x, indices, axis)


def gather_nd(x: Held, indices: Held, *, batch_dims: int = 0) -> Held:
    library, (x, indices) = together([x, indices])
    own = [
        library.arange(size).reshape(-1, *[1] * (indices.ndim - 2 - axis))
        for axis, size in enumerate(x.shape[:batch_dims])
    ]
    return x[(*own, *(indices[..., place] for place in range(indices.shape[-1])))]


def expand(x: Held, shape: Held) -> Held:
    library, (x,) = together([x])
    return library.broadcast_to(x, np.broadcast_shapes(tuple(x.shape), tuple(numbers(shape))))


def tile(x: Held, repeats: Held) -> Held:
    return mx.tile(device(x), numbers(repeats))


def filled(shape: Held, value: Held = None) -> np.ndarray:
    held = np.zeros(1, np.float32) if value is None else host(value)
    return np.full(numbers(shape), held.item(), held.dtype)


def counted(start: Held, limit: Held, delta: Held) -> np.ndarray:
    first, last, step = host(start), host(limit), host(delta)
    return np.arange(first.item(), last.item(), step.item(), dtype=first.dtype)
