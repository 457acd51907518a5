"""Affine quantization of arrays: real value = scale x (integer - zero point).

Definitions as in Jacob et al. 2018 (arXiv:1712.05877) and the ONNX operators QuantizeLinear and
MatMulNBits.
"""

from __future__ import annotations

import numpy as np


def symmetric(
    weight: np.ndarray, axis: int | None, bits: int = 8, least: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Integers (int8) and scales (float32) with zero point 0, in the narrow range ±(2^(bits-1) - 1).

    One scale for each index along `axis`, of shape (weight.shape[axis],), or one for all where
    `axis` is None. `least`, of that shape or one number, bounds the scales from below. A slice of
    zeros without such a bound gets scale 1.
    """
    top = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.maximum(largest / top, np.reshape(least, largest.shape if np.ndim(least) else ()))
    # A scale must not be subnormal: dividing by it overflows.
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    integers = np.clip(np.rint(weight / scale), -top, top).astype(np.int8)
    return integers, scale.reshape(-1) if axis is not None else scale.reshape(())


def asymmetric_range(low: float, high: float, levels: int = 256) -> tuple[np.float32, int]:
    """Scale and zero point (0 to levels - 1) for values in [low, high]; the range is widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low) / (levels - 1)
    if width < np.finfo(np.float32).tiny:
        return np.float32(1.0), 0
    scale = np.float32(width)
    return scale, int(np.clip(np.rint(-low / scale), 0, levels - 1))


def blocks(weight: np.ndarray, size: int) -> np.ndarray:
    """A (in, out) matrix as (out, blocks, size), its input side filled with zeros to whole blocks."""
    inputs, outputs = weight.shape
    count = -(-inputs // size)
    padded = np.zeros((outputs, count * size), np.float32)
    padded[:, :inputs] = weight.T
    return padded.reshape(outputs, count, size)


def blockwise(
    grouped: np.ndarray, bits: int, is_symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unsigned integers (uint8), scales (float32) and zero points (uint8) for each last-axis block.

    Symmetric: the zero point is 2^(bits-1), and the value of largest magnitude (of two, the positive one)
    takes the end of the range that reaches one further. Asymmetric: the block's own range. In both, the
    scale is then shrunk in small steps and the one with the least squared error kept.
    """
    levels = 2**bits
    middle = levels // 2
    low, high = grouped.min(-1, keepdims=True), grouped.max(-1, keepdims=True)
    if is_symmetric:
        full = np.where(-low > high, low, high) / -middle
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        full = high / (levels - 1) - low / (levels - 1)
    # Twice the least: the smallest of the scales tried must not be subnormal either.
    full = np.where(np.abs(full) > 2 * np.finfo(np.float32).tiny, full, 1.0).astype(np.float32)
    zero = np.full_like(full, middle) if is_symmetric else np.clip(np.rint(-low / full), 0, levels - 1)
    best_error = np.full(full.shape, np.inf)
    best = (np.zeros(grouped.shape, np.uint8), full)
    for shrink in (1.0, 0.96, 0.92, 0.88, 0.84) if bits < 8 else (1.0,):
        scale = full * np.float32(shrink)
        exact = grouped / scale + zero
        integers = np.clip(np.rint(exact), 0, levels - 1)
        # In steps of the full scale: squares of huge or tiny weights would leave the range of float32.
        error = np.square((integers - exact) * shrink).sum(-1, keepdims=True)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = (np.where(better, integers, best[0]).astype(np.uint8), np.where(better, scale, best[1]))
    return best[0], best[1][..., 0], zero[..., 0].astype(np.uint8)


def pack_nibbles(values: np.ndarray) -> np.ndarray:
    """Two 4-bit integers a byte along the last axis, the first in the low half; an odd end gets a 0."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), values.dtype)], -1)
    packed: np.ndarray = values[..., 0::2] | (values[..., 1::2] << 4)
    return packed.astype(np.uint8)


def unpack_nibbles(packed: np.ndarray) -> np.ndarray:
    """The 4-bit integers that `pack_nibbles` packed; where their number was odd, with the 0 at the end."""
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)
