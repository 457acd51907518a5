"""What an operator is given: MLX's arrays, which are data, or numpy's, which are sizes, axes and the like.

MLX computes when it is asked to; what a shape is made of must be there before. So whatever follows from
shapes and short constants alone stays in numpy, whose functions have the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

Held = Any
"""An `mx.array` or an `np.ndarray`."""


def device(value: Held) -> mx.array:
    """The value as MLX's array."""
    return value if isinstance(value, mx.array) else mx.array(value)


def host(value: Held) -> np.ndarray:
    """The value as numpy's array; MLX computes it where it is its own."""
    return np.array(value)


def numbers(value: Held) -> list[int]:
    """Sizes, axes or places: an attribute's list, or an input of one axis or none."""
    return value if isinstance(value, list) else host(value).reshape(-1).tolist()


def together(given: Sequence[Held]) -> tuple[ModuleType, Sequence[Held]]:
    """The library that computes with these values, and the values as it wants them."""
    if any(isinstance(value, mx.array) for value in given):
        return mx, [device(value) for value in given]
    return np, given
