"""Small inputs take the shallow branch, large ones the deep one: a picture's side, a window's length."""

from __future__ import annotations

from math import prod
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import GateConfig, State


class Size(GateConfig):
    """The first route where the input is at most `limit`, the second where it is larger."""

    kind: ClassVar[str] = "size"

    input: str
    axes: tuple[int, ...] = Field(min_length=1)
    """Of the input, whose sizes count, such as (2, 3) for pictures (rows, channels, height, width)."""
    limit: int = Field(ge=1)
    by: Literal["longest", "shortest", "product"] = "longest"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.input,)

    def decide(self, state: State) -> np.ndarray:
        array = state[self.input]
        sizes = [array.shape[axis] for axis in self.axes]
        size = {"longest": max(sizes), "shortest": min(sizes), "product": prod(sizes)}[self.by]
        return np.full(len(array), int(size > self.limit))
