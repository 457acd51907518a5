"""Operators over pictures and signals, (rows, channels, ...): windows that slide, sizes that change.

Parameters are those of ONNX's operators, as in `operators`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from openglm.errors import InputError
from openglm.model.modules.shapes import Held


def same_pads(
    x: torch.Tensor, auto_pad: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The pads that SAME_UPPER or SAME_LOWER stands for, first those before each axis, then those after."""
    before, after = [], []
    for size, length, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        reach = (length - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        small, large = total // 2, total - total // 2
        before.append(small if auto_pad == "SAME_UPPER" else large)
        after.append(large if auto_pad == "SAME_UPPER" else small)
    return [*before, *after]


def padded(x: torch.Tensor, pads: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """A tensor (rows, channels, ...) with more around it; `pads` as ONNX has them, of all axes behind two."""
    half = len(pads) // 2
    turned = [pads[place] for axis in reversed(range(half)) for place in (axis, axis + half)]
    return functional.pad(x, turned, value=value) if any(turned) else x


def conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *,
    auto_pad: str = "NOTSET", dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> torch.Tensor:  # fmt: skip
    kernel = list(weight.shape[2:])
    strides, dilations = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    pads = pads or [0] * (2 * len(kernel))
    if auto_pad.startswith("SAME"):
        pads = same_pads(x, auto_pad, kernel, strides, dilations)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    return convolve(padded(x, pads), weight, bias, list(strides), 0, list(dilations), group)


def _window(
    x: torch.Tensor, auto_pad: str, kernel: Sequence[int], strides: Any, pads: Any, dilations: Any
) -> tuple[list[int], list[int], list[int]]:
    """Strides, pads and dilations, those left out filled in."""
    strides, dilations = list(strides or [1] * len(kernel)), list(dilations or [1] * len(kernel))
    if auto_pad.startswith("SAME"):
        return strides, same_pads(x, auto_pad, kernel, strides, dilations), dilations
    return strides, list(pads or [0] * (2 * len(kernel))), dilations


def max_pool(
    x: torch.Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    dilations: Any = None, pads: Any = None, strides: Any = None, storage_order: int = 0,
) -> torch.Tensor:  # fmt: skip
    strides, pads, dilations = _window(x, auto_pad, kernel_shape, strides, pads, dilations)
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel_shape) - 1]
    wide = padded(x, pads, -math.inf)
    return pool(wide, list(kernel_shape), strides, 0, dilations, bool(ceil_mode))


def average_pool(
    x: torch.Tensor, *, kernel_shape: Sequence[int], auto_pad: str = "NOTSET", ceil_mode: int = 0,
    count_include_pad: int = 0, dilations: Any = None, pads: Any = None, strides: Any = None,
) -> torch.Tensor:  # fmt: skip
    strides, pads, dilations = _window(x, auto_pad, kernel_shape, strides, pads, dilations)
    half = len(pads) // 2
    if (
        max(dilations) > 1
        or (ceil_mode and any(pads))
        or (pads[:half] != pads[half:] and not count_include_pad)
    ):
        raise InputError("AveragePool comes in a form that PyTorch has not.", "Give the model as a module.")
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[half - 1]
    if pads[:half] != pads[half:]:
        return pool(padded(x, pads), list(kernel_shape), strides, 0, bool(ceil_mode))
    return pool(x, list(kernel_shape), strides, pads[:half], bool(ceil_mode), bool(count_include_pad))


def pad(
    x: torch.Tensor, pads: Sequence[int], value: Held = None, axes: Sequence[int] | None = None, *,
    mode: str = "constant",
) -> torch.Tensor:  # fmt: skip
    count = len(pads) // 2
    around = {
        axis % x.dim(): (pads[place], pads[place + count]) for place, axis in enumerate(axes or range(count))
    }
    turned = [size for axis in reversed(range(x.dim())) for size in around.get(axis, (0, 0))]
    if mode == "constant":
        while len(turned) > 2 and not any(turned[-2:]):  # NCNN pads no rows, even by nothing
            turned = turned[:-2]
        return functional.pad(x, turned, value=0.0 if value is None else float(value))
    kind = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    last = 2 * (x.dim() - 2)  # what PyTorch repeats along, and engines with it
    if not any(turned[last:]):
        return functional.pad(x, turned[:last], mode=kind)
    for axis, sizes in around.items():
        if any(sizes):
            alone = [*sizes, *[0] * (last - 2)]
            x = functional.pad(x.transpose(axis, -1), alone, mode=kind).transpose(axis, -1)
    return x


def resize(
    x: torch.Tensor, roi: Held = None, scales: Held = None, sizes: Held = None, *,
    mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor", cubic_coeff_a: float = -0.75, exclude_outside: int = 0,
    extrapolation_value: float = 0.0, antialias: int = 0, axes: Any = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> torch.Tensor:  # fmt: skip
    """As `interpolate` has it: nearest towards the floor, or linear and cubic between centres or corners."""
    kinds = {
        "nearest": ("nearest",) * 3,
        "linear": ("linear", "bilinear", "trilinear"),
        "cubic": ("bicubic",) * 3,
    }
    centres = coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
    known = centres or coordinate_transformation_mode == "align_corners"
    if mode == "nearest":
        floors = (coordinate_transformation_mode, nearest_mode) == ("asymmetric", "floor")
        whole = sizes is None and all(float(scale) == int(scale) for scale in scales[2:])
        known = floors or (centres and whole)
    if not known or exclude_outside or antialias or axes or keep_aspect_ratio_policy != "stretch":
        raise InputError(
            "Resize comes in a form that PyTorch has not.", "Give the model as a PyTorch module."
        )
    if sizes is None:
        sizes = [int(size * scale) for size, scale in zip(x.shape, scales, strict=True)]
    corners = None if mode == "nearest" else not centres
    return functional.interpolate(
        x, size=list(sizes[2:]), mode=kinds[mode][x.dim() - 3], align_corners=corners
    )


def depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, blocksize, blocksize, channels // blocksize**2, height, width)
    turned = parts.permute(0, 3, 4, 1, 5, 2)
    return turned.reshape(rows, channels // blocksize**2, height * blocksize, width * blocksize)


def space_to_depth(x: torch.Tensor, *, blocksize: int) -> torch.Tensor:
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    turned = parts.permute(0, 3, 5, 1, 2, 4)
    return turned.reshape(rows, channels * blocksize**2, height // blocksize, width // blocksize)
