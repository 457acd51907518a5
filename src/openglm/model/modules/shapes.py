"""Operators on shapes, and what is taken from tensors by place.

Parameters are those of ONNX's operators, as in `operators`. Sizes stay Python's numbers: what is no tensor
is a number (a tensor without axes) or a list of them (one axis), so that shapes of any size can be followed
when the module is exported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

Number = Any
"""An int, a float or a bool; a size of any value while it is exported."""
Held = Any
"""A tensor, a number or a list of numbers."""


def tensor(value: Held, like: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor of what may be numbers, of the type and on the device of another."""
    if isinstance(value, torch.Tensor):
        return value
    if like is None:
        return torch.tensor(value)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def item(given: Sequence[Any], place: int) -> Any:
    """One of several outputs."""
    return given[place]


def _sizes(shape: Held) -> list[Number]:
    return list(shape.tolist()) if isinstance(shape, torch.Tensor) else list(shape)


def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> list[Number]:
    return list(x.shape)[start:end]


def size(x: torch.Tensor) -> Number:
    return math.prod(x.shape)


def reshape(x: Held, shape: Held, *, allowzero: int = 0) -> Held:
    if not isinstance(x, torch.Tensor):
        flat = x if isinstance(x, list) else [x]
        return flat if len(shape) else flat[0]
    wanted = _sizes(shape)
    if not allowzero:
        wanted = [
            x.shape[place] if isinstance(size, int) and size == 0 else size
            for place, size in enumerate(wanted)
        ]
    return x.reshape(wanted)


def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    rows = math.prod(x.shape[:axis]) if axis else 1
    return x.reshape(rows, math.prod(x.shape[axis:]))


def transpose(x: torch.Tensor, *, perm: Sequence[int] | None = None) -> torch.Tensor:
    return x.permute(list(perm or reversed(range(x.dim()))))


def squeeze(x: Held, axes: Sequence[int] | None = None) -> Held:
    if not isinstance(x, torch.Tensor):
        return x[0] if isinstance(x, list) else x
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def unsqueeze(x: Held, axes: Sequence[int]) -> Held:
    if not isinstance(x, torch.Tensor):
        return [x]
    count = x.dim() + len(axes)
    for axis in sorted(axis % count for axis in axes):
        x = x.unsqueeze(axis)
    return x


def concat(*given: Held, axis: int) -> Held:
    first = next((item for item in given if isinstance(item, torch.Tensor)), None)
    if first is None:
        return [number for item in given for number in item]
    return torch.cat([tensor(item, first) for item in given], axis)


def split(
    x: torch.Tensor, split: Sequence[int] | None = None, *,
    axis: int = 0, num_outputs: int | None = None, outputs: int = 0,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    size = x.shape[axis]
    return torch.split(x, list(split) if split else -(-size // (num_outputs or outputs)), axis)


def sliced(x: Held, starts: Held, ends: Held, axes: Held = None, steps: Held = None) -> Held:
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        step = steps[place] if steps else 1
        end = min(end, sys.maxsize) if isinstance(end, int) else end
        if not isinstance(x, torch.Tensor):
            return x[start : end if end > -sys.maxsize else None : step]
        if step < 0:
            size = x.shape[axis]
            taken = list(range(size))[start : end if end >= -size else None : step]
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
        else:
            x = x[(*[slice(None)] * (axis % x.dim()), slice(start, end, step))]
    return x


def gather(x: Held, indices: Held, *, axis: int = 0) -> Held:
    if not isinstance(x, torch.Tensor):
        if isinstance(indices, torch.Tensor):
            indices = indices.tolist()
        return [x[place] for place in indices] if isinstance(indices, list) else x[indices]
    if isinstance(indices, int):
        return x.select(axis, indices)
    places = tensor(indices).to(x.device)
    places = torch.where(places < 0, places + x.shape[axis], places)
    axis %= x.dim()
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def gather_nd(x: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    own = [
        torch.arange(size).reshape(-1, *[1] * (indices.dim() - 2 - axis))
        for axis, size in enumerate(x.shape[:batch_dims])
    ]
    return x[(*own, *indices.unbind(-1))]


def expand(x: Held, shape: Held) -> torch.Tensor:
    given = tensor(x)
    shape = _sizes(shape)
    own = [1] * (len(shape) - given.dim()) + list(given.shape)
    wide = [1] * (len(own) - len(shape)) + shape
    return given.expand(
        [mine if isinstance(size, int) and size == 1 else size for mine, size in zip(own, wide, strict=True)]
    )


def tile(x: torch.Tensor, repeats: Sequence[Number]) -> torch.Tensor:
    return x.repeat(list(repeats))


def filled(shape: Held, *, value: torch.Tensor | None = None) -> torch.Tensor:
    sizes = _sizes(shape)
    return torch.zeros(sizes) if value is None else torch.full(sizes, value.item(), dtype=value.dtype)


def counted(start: Number, limit: Number, delta: Number) -> torch.Tensor:
    return torch.arange(start, limit, delta)
