"""Rows go by how many tokens they have, and are cut to their own length: no row is padded to another's.

With a bucket for each graph this serves engines that want fixed shapes; with other targets it is a
branch for short inputs and one for long ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from openglm.dynamic.gates.gate import GateConfig, Passed, State


class Length(GateConfig):
    """One route for each bucket, the first that a row is not too long for, and one for what is longer."""

    kind: ClassVar[str] = "length"

    mask: str = "attention_mask"
    """(rows, tokens): 1 where there is a token, 0 behind the last."""
    buckets: tuple[int, ...] = Field(min_length=1)
    """The longest row of each bucket, ascending."""
    cut: tuple[str, ...] = ()
    """Arrays (rows, tokens, ...) to cut to the longest row of a group, the mask among them."""

    @model_validator(mode="after")
    def _ascending(self) -> Length:
        if self.buckets[0] < 1 or any(one >= other for one, other in pairwise(self.buckets)):
            raise ValueError("buckets ascend, from 1 on")
        return self

    @property
    def ways(self) -> int:
        return len(self.buckets) + 1

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.mask, *self.cut)))

    def split(self, state: State) -> list[Passed]:
        lengths = self.lengths(state[self.mask])
        bucket = np.searchsorted(self.buckets, lengths)
        groups = []
        for route in np.unique(bucket):
            rows = np.flatnonzero(bucket == route)
            own = {name: array[rows] for name, array in state.items()}
            longest = max(1, int(lengths[rows].max()))
            for name in self.cut:
                own[name] = np.ascontiguousarray(own[name][:, :longest])
            groups.append(Passed(int(route), rows, own))
        return groups

    def left(self, before: State, after: State) -> float:
        return float(after[self.mask].shape[1] / max(before[self.mask].shape[1], 1))

    @staticmethod
    def lengths(mask: np.ndarray) -> np.ndarray:
        """How far each row's last token is from the start, (rows,)."""
        there = mask != 0
        last = mask.shape[1] - there[:, ::-1].argmax(axis=1)
        return np.where(there.any(axis=1), last, 0)
