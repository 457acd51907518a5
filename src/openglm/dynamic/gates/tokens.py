"""Tokens that matter little are dropped: what runs next gets shorter inputs.

A token matters by the attention that it received (PoWER-BERT: Goyal et al. 2020). How many stay goes by how
many there are: short inputs, whose tokens are all needed, lose fewer than long ones.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import GateConfig, Passed, State

LEAST = 8
"""Tokens of an input that stay in any case, if nothing else is said."""


class Tokens(GateConfig):
    """Keeps the `least` most important tokens and a `share` of the others; one route.

    Bundles made before had a threshold in place of a number.
    """

    kind: ClassVar[str] = "tokens"

    importance: str
    """(rows, tokens)."""
    mask: str
    """(rows, tokens), or with more axes between: `absent` where there is no token."""
    absent: float
    """What `mask` holds there: 0, or a very negative number where it is added to attention scores."""
    also: dict[str, float] = Field(default_factory=dict)
    """Other arrays that say where there is no token, with what they hold there."""
    least: int = Field(default=LEAST, ge=1)
    """As many stay in any case."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Of those beyond `least` this share stays, rounded up; 1: no token is dropped."""
    threshold: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """The least importance to stay with, in shares of the row's mean; with `scale`, by which it is
    multiplied (Learned Token Pruning: Kim et al. 2022)."""
    scale: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    first: int = Field(default=1, ge=0)
    """Tokens at the start that always stay: what the answer is read from."""
    axes: dict[str, int]
    """The axis of tokens of each array to shorten, the mask among them."""

    @property
    def ways(self) -> int:
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.importance, self.mask, *self.axes)))

    def split(self, state: State) -> list[Passed]:
        rows = np.arange(len(state[self.mask]))
        if len(rows) == 1 and (places := self._places(state[self.importance][0], state[self.mask])).size:
            # As most come: nothing has to be filled up.
            if len(places) == state[self.importance].shape[1]:
                return [Passed(0, rows, state)]
            taken = {name: state[name].take(places, axis) for name, axis in self.axes.items()}
            return [Passed(0, rows, state | taken)]
        kept = self.kept(state[self.importance], state[self.mask])
        counts = kept.sum(axis=1)
        if (counts == kept.shape[1]).all():
            return [Passed(0, rows, state)]
        longest = max(1, int(counts.max()))
        # A stable sort of what goes behind what stays keeps the tokens' order.
        places = np.argsort(~kept, axis=1, kind="stable")[:, :longest]
        shorter = dict(state)
        for name, axis in self.axes.items():
            shorter[name] = _take(state[name], places, axis)
        behind = np.arange(longest)[None, :] >= counts[:, None]
        for name, absent in {self.mask: self.absent, **self.also}.items():
            axis = self.axes[name]
            mask = np.moveaxis(shorter[name], axis, 1).copy()
            mask[behind] = absent
            shorter[name] = np.ascontiguousarray(np.moveaxis(mask, 1, axis))
        return [Passed(0, rows, shorter)]

    def _places(self, importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Which tokens of one row, (tokens,), stay, as `kept` has it.

        Behind a segment each call of numpy takes microseconds: there are few, where a row has no padding.
        """
        count = len(importance)
        stay = max(self.least + math.ceil(self.share * (count - self.least)), self.first)
        if not self.threshold and mask.size == count and not np.count_nonzero(mask == self.absent):
            if stay >= count:
                return np.arange(count)
            ranked = -importance
            ranked[: self.first] = -np.inf
            order = ranked.argsort(kind="stable")
            if not math.isnan(ranked[order[-1]]):  # what is no number would be last, and is important
                return np.sort(order[:stay])
        return np.flatnonzero(self.kept(importance[None], mask)[0])

    def left(self, before: State, after: State) -> float:
        axis = self.axes[self.mask]
        return float(after[self.mask].shape[axis] / max(before[self.mask].shape[axis], 1))

    def there(self, state: State) -> np.ndarray:
        """Where there is a token, (rows, tokens)."""
        return self._there(state[self.importance], state[self.mask])

    def _there(self, importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(mask, self.axes[self.mask], 1).reshape(*importance.shape, -1)
        found: np.ndarray = moved[..., 0] != self.absent
        return found

    def kept(self, importance: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Whether each token stays, (rows, tokens). What is no number counts as important."""
        there = self._there(importance, mask)
        counted = np.where(there, importance, 0.0)
        count = there.sum(axis=1, keepdims=True)
        mean = counted.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        kept: np.ndarray = there & ~(counted < self.scale * self.threshold * mean)
        if self.share < 1:
            ranked = np.where(there, -np.nan_to_num(counted, nan=np.inf), np.inf)
            ranked[:, : self.first] = -np.inf
            rank = ranked.argsort(axis=1, kind="stable").argsort(axis=1)
            kept &= rank < self.least + np.ceil(self.share * (count - self.least))
        kept[:, : self.first] |= there[:, : self.first]
        return kept


def _take(array: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    moved = np.moveaxis(array, axis, 1)
    taken = np.take_along_axis(moved, places.reshape(*places.shape, *(1,) * (moved.ndim - 2)), axis=1)
    return np.ascontiguousarray(np.moveaxis(taken, 1, axis))
