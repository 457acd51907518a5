"""What a gate is: a decision on the host, for each row of a batch, on what runs next.

A kind of gate is one file here that defines one `GateConfig`; a program names it by its `kind`.
Gates need numpy alone, and decide by nothing but the arrays they are given.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from openglm.bundle.manifest import Gate
from openglm.errors import InputError, nearest
from openglm.registry import registered

State = dict[str, np.ndarray]
"""Arrays by name, the first axis of each the rows."""
LEAVE, GO_ON = 0, 1
"""The routes of a gate that may end the program: what it does when it is sure, and when it is not."""
FEW = 32
"""Classes, at most, of which plain Python makes probabilities sooner than numpy does."""
_ALONE = np.arange(1)
"""The place of a row that is alone."""


class Passed(NamedTuple):
    """Rows that take one route."""

    route: int
    """Index into the gate's routes."""
    rows: np.ndarray
    """Their places among the rows that came, ascending."""
    state: State


class GateConfig(BaseModel, ABC):
    """The settings of a gate, checked when they are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    @property
    def ways(self) -> int:
        """How many routes it chooses among."""
        return 2

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The arrays it needs."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """Arrays it leaves for the gates after it."""
        return ()

    def left(self, before: State, after: State) -> float:
        """The share of the tokens that are left of a group that was split off."""
        return 1.0

    def split(self, state: State) -> list[Passed]:
        """The rows by route; rows that take one route may come as several groups."""
        routes = self.decide(state)
        if len(routes) == 1 or (routes == routes[0]).all():  # nothing to copy
            return [Passed(int(routes[0]), np.arange(len(routes)), state)]
        return [
            Passed(int(route), rows, {name: array[rows] for name, array in state.items()})
            for route in np.unique(routes)
            for rows in (np.flatnonzero(routes == route),)
        ]

    def decide(self, state: State) -> np.ndarray:
        """The route of each row, (rows,). May put what it `keeps` into `state`."""
        raise AssertionError(f"{self.kind} splits by itself")


class AnswerGate(GateConfig):
    """A gate that decides by an answer: the output of an exit, or of a small model."""

    output: str = "logits"
    """(rows, classes), or (rows, 1)."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.output, *self.keeps)


class ProbabilityGate(AnswerGate):
    """A gate that decides by the probabilities of classes, and goes on where a logit is no number."""

    def split(self, state: State) -> list[Passed]:
        # Behind a segment nothing of numpy is in the cache, and its calls take ten times as long.
        answer = state[self.output]
        if len(answer) != 1 or answer.size > FEW:
            return super().split(state)
        found = shares(answer.ravel().tolist())
        return [Passed(LEAVE if found is not None and self.leaves(found) else GO_ON, _ALONE, state)]

    @abstractmethod
    def leaves(self, shares: Sequence[float]) -> bool:
        """Whether a single row does, by its probabilities, as `decide` has it."""


def kinds() -> dict[str, type[GateConfig]]:
    """Every gate by its kind."""
    import openglm.dynamic.gates as here

    return registered(here, GateConfig, "kind")  # type: ignore[type-abstract]


def parse(gate: Gate) -> GateConfig:
    """The config of a program's gate; raises `InputError` for a kind or settings that are not valid."""
    known = kinds()
    if gate.kind not in known:
        raise InputError(f"There is no gate of kind '{gate.kind}'.", nearest(gate.kind, known))
    try:
        config = known[gate.kind].model_validate(gate.settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its settings"
        raise InputError(
            f"The gate '{gate.name}' is not valid at {where}: {first['msg']}.",
            f"A gate of kind {gate.kind} has: {', '.join(known[gate.kind].model_fields)}.",
        ) from error
    if config.ways != len(gate.routes):
        raise InputError(
            f"The gate '{gate.name}' has {len(gate.routes)} routes, and one of kind {gate.kind} with these "
            f"settings has {config.ways}.",
            "Give as many.",
        )
    return config


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, (rows, classes); one logit is one of two classes' (a sigmoid).

    Rows that are not finite come back as NaN, of which no comparison is true.
    """
    values = np.asarray(logits, np.float64).reshape(len(logits), -1)
    if values.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    # Between segments nothing of numpy is in the cache: by the arrays' methods this takes twice as long.
    if not np.logical_and.reduce(np.isfinite(values), axis=None):
        values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, np.nan)
    shifted = np.exp(values - np.maximum.reduce(values, axis=1, keepdims=True))
    found: np.ndarray = shifted / np.add.reduce(shifted, axis=1, keepdims=True)
    return found


def shares(logits: list[float]) -> list[float] | None:
    """What `probabilities` makes of a single row, without numpy; none where a logit is not finite."""
    if not all(map(math.isfinite, logits)):
        return None
    if len(logits) == 1:
        logits = [0.0, *logits]
    top = max(logits)
    parts = [math.exp(logit - top) for logit in logits]
    total = sum(parts)
    return [part / total for part in parts]


def finite(array: np.ndarray) -> np.ndarray:
    """Whether each row holds finite numbers only, (rows,)."""
    found: np.ndarray = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return found


def where_sure(sure: np.ndarray) -> np.ndarray:
    """The routes of rows that leave where `sure` is true, (rows,)."""
    return np.where(sure, LEAVE, GO_ON)
