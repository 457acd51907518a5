"""Operators over pictures and signals, (rows, channels, ...): windows that slide, sizes that change.

Parameters are those of ONNX's operators, as in `operators`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from openglm.errors import InputError
from openglm.runtimes.mlx_graph.held import Held, device, host, numbers


class _Window(NamedTuple):
    """How a window slides, by axis."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[int]
    after: Sequence[int]

    def reach(self, axis: int) -> int:
        """How many elements it spans."""
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _window(
    sizes: Sequence[int], kernel: Sequence[int], strides: Any, dilations: Any, pads: Any, auto_pad: str
) -> _Window:
    """What was left out filled in."""
    count = len(kernel)
    pads = list(pads or [0] * 2 * count)
    window = _Window(kernel, strides or [1] * count, dilations or [1] * count, pads[:count], pads[count:])
    if not auto_pad.startswith("SAME"):
        return window
    total = [
        max((-(-size // window.strides[axis]) - 1) * window.strides[axis] + window.reach(axis) - size, 0)
        for axis, size in enumerate(sizes)
    ]
    small, large = [size // 2 for size in total], [size - size // 2 for size in total]
    before, after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    return window._replace(before=before, after=after)


def _last(x: mx.array) -> Held:
    """Channels last."""
    return mx.moveaxis(x, 1, -1)


def _first(x: mx.array, bias: Held) -> Held:
    """Channels, which are last, first again; a bias is added."""
    return mx.moveaxis(x if bias is None else x + device(bias), -1, 1)


def conv(
    x: Held, weight: Held, bias: Held = None, *,
    auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Held:  # fmt: skip
    x, weight = device(x), device(weight)
    window = _window(x.shape[2:], weight.shape[1:-1], strides, dilations, pads, auto_pad)
    found = mx.conv_general(
        _last(x), weight, list(window.strides), (list(window.before), list(window.after)),
        list(window.dilations), groups=group,
    )  # fmt: skip
    return _first(found, bias)


def conv_transpose(
    x: Held, weight: Held, bias: Held = None, *,
    auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, output_padding: Sequence[int] | None = None,
    pads: Sequence[int] | None = None, strides: Sequence[int] | None = None,
) -> Held:  # fmt: skip
    """A convolution of what is spread out by the strides."""
    if auto_pad != "NOTSET":
        raise InputError("ConvTranspose pads by itself.", "Export the model with its pads as numbers.")
    x, weight = device(x), device(weight)
    window = _window(x.shape[2:], weight.shape[1:-1], strides, dilations, pads, auto_pad)
    extra = output_padding or [0] * len(window.kernel)
    reach = [window.reach(axis) - 1 for axis in range(len(window.kernel))]
    before = [length - pad for length, pad in zip(reach, window.before, strict=True)]
    after = [length - pad + more for length, pad, more in zip(reach, window.after, extra, strict=True)]
    found = mx.conv_general(
        _last(x), weight, 1, (before, after), list(window.dilations), list(window.strides), group, True
    )
    return _first(found, bias)


def _pooled(
    x: mx.array, window: _Window, ceil_mode: int, fill: float, join: Callable[[mx.array, mx.array], mx.array]
) -> tuple[mx.array, list[int]]:
    """What `join` makes of the elements under each place of a window, and how many places there are by axis;
    what lies around is `fill`."""
    places, around = [], []
    for axis, size in enumerate(x.shape[2:]):
        whole = size + window.before[axis] + window.after[axis]
        steps, rest = divmod(whole - window.reach(axis), window.strides[axis])
        more = bool(ceil_mode and rest and (steps + 1) * window.strides[axis] < size + window.before[axis])
        places.append(steps + 1 + more)
        needed = (places[-1] - 1) * window.strides[axis] + window.reach(axis)
        around.append((window.before[axis], window.after[axis] + max(needed - whole, 0)))
    wide = mx.pad(x, [(0, 0), (0, 0), *around], constant_values=fill)
    taps = [
        wide[
            :, :,
            *(
                slice(
                    tap * window.dilations[axis],
                    tap * window.dilations[axis] + (places[axis] - 1) * window.strides[axis] + 1,
                    window.strides[axis],
                )
                for axis, tap in enumerate(each)
            ),
        ]
        for each in product(*map(range, window.kernel))
    ]  # fmt: skip
    return reduce(join, taps), places


def max_pool(
    x: Held, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: Any = None, pads: Any = None, strides: Any = None, storage_order: int = 0,
) -> Held:  # fmt: skip
    x = device(x)
    window = _window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    return _pooled(x, window, ceil_mode, -np.inf, mx.maximum)[0]


def average_pool(
    x: Held, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0, dilations: Any = None, pads: Any = None, strides: Any = None,
) -> Held:  # fmt: skip
    x = device(x)
    window = _window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    total, places = _pooled(x, window, ceil_mode, 0.0, mx.add)
    counts = np.ones((), np.float32)
    for axis, size in enumerate(x.shape[2:]):
        taps = np.arange(window.kernel[axis]) * window.dilations[axis]
        covered = np.arange(places[axis])[:, None] * window.strides[axis] + taps - window.before[axis]
        low, high = (-window.before[axis], size + window.after[axis]) if count_include_pad else (0, size)
        counts = np.multiply.outer(counts, ((covered >= low) & (covered < high)).sum(1))
    return total / mx.array(counts, total.dtype)


def pad(x: Held, pads: Held, value: Held = None, axes: Held = None, *, mode: str = "constant") -> Held:
    x, sizes = device(x), numbers(pads)
    chosen = list(range(x.ndim)) if axes is None else numbers(axes)
    for axis, before, after in zip(chosen, sizes[: len(chosen)], sizes[len(chosen) :], strict=True):
        taken = np.arange(max(-before, 0), x.shape[axis] - max(-after, 0))
        around = (max(before, 0), max(after, 0))
        if before < 0 or after < 0:
            x = mx.take(x, mx.array(taken), axis)
        if mode == "constant" and any(around):
            widths = [(0, 0)] * x.ndim
            widths[axis] = around
            x = mx.pad(x, widths, constant_values=0 if value is None else host(value).item())
        elif any(around):
            places = np.pad(np.arange(x.shape[axis]), around, mode=mode)  # type: ignore[call-overload]
            x = mx.take(x, mx.array(places), axis)
    return x


def resize(
    x: Held, roi: Held = None, scales: Held = None, sizes: Held = None, *,
    mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    extrapolation_value: float = 0.0, antialias: int = 0, axes: Any = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> Held:  # fmt: skip
    """Axis by axis: each new element is a sum of old ones with weights."""
    odd = exclude_outside or antialias or axes or keep_aspect_ratio_policy != "stretch"
    if odd or coordinate_transformation_mode not in _COORDINATES:
        raise InputError("Resize comes in a form that is not known here.", "Try another engine.")
    x = device(x)
    for axis, old in enumerate(x.shape):
        if sizes is not None:
            new = numbers(sizes)[axis]
            scale = new / old
        else:
            scale = float(host(scales)[axis])
            new = int(old * scale)
        if new == old and scale == 1:
            continue
        where = _COORDINATES[coordinate_transformation_mode](np.arange(new), scale, old, new)
        x = _taken(x, axis, where, mode, nearest_mode, cubic_coeff_a)
    return x


_COORDINATES: dict[str, Callable[[np.ndarray, float, int, int], np.ndarray]] = {
    "half_pixel": lambda new, scale, *_: (new + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda new, scale, _, count: (new + 0.5) / scale - 0.5 if count > 1 else 0.0 * new,
    "asymmetric": lambda new, scale, *_: new / scale,
    "align_corners": lambda new, _, old, count: new * (old - 1) / max(count - 1, 1),
}
"""Where a new element lies among the old ones."""
_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda where: np.ceil(where - 0.5),
    "round_prefer_ceil": lambda where: np.floor(where + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _taken(x: mx.array, axis: int, where: np.ndarray, mode: str, nearest_mode: str, a: float) -> Held:
    """The elements at fractional places of an axis."""
    if mode == "nearest":
        parts: list[tuple[np.ndarray, np.ndarray | None]] = [(_NEAREST[nearest_mode](where), None)]
    else:
        low = np.floor(where)
        share = where - low
        weights = [1 - share, share] if mode == "linear" else _cubic(share, a)
        first = 0 if mode == "linear" else -1
        parts = [(low + first + place, weight) for place, weight in enumerate(weights)]
    found = []
    for places, weight in parts:
        inside = np.clip(places, 0, x.shape[axis] - 1).astype(np.int32)
        taken = mx.take(x, mx.array(inside), axis)
        if weight is not None:
            taken = taken * mx.array(weight, x.dtype).reshape(-1, *[1] * (x.ndim - axis - 1))
        found.append(taken)
    return reduce(mx.add, found)


def _cubic(share: np.ndarray, a: float) -> list[np.ndarray]:
    """The weights of the four neighbours (Keys 1981)."""

    def near(t: np.ndarray) -> Any:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: np.ndarray) -> Any:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return [far(share + 1), near(share), near(1 - share), far(2 - share)]


def _blocks(x: mx.array, size: int, mode: str) -> tuple[int, ...]:
    """The shape (rows, ...) in which the channels' blocks are axes of their own."""
    rows, channels, height, width = x.shape
    depth = channels // size**2
    return (
        (rows, size, size, depth, height, width)
        if mode == "DCR"
        else (rows, depth, size, size, height, width)
    )


def depth_to_space(x: Held, *, blocksize: int, mode: str = "DCR") -> Held:
    x = device(x)
    rows, channels, height, width = x.shape
    order = (0, 3, 4, 1, 5, 2) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
    turned = x.reshape(_blocks(x, blocksize, mode)).transpose(order)
    return turned.reshape(rows, channels // blocksize**2, height * blocksize, width * blocksize)


def space_to_depth(x: Held, *, blocksize: int) -> Held:
    x = device(x)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    turned = parts.transpose(0, 3, 5, 1, 2, 4)
    return turned.reshape(rows, channels * blocksize**2, height // blocksize, width // blocksize)
