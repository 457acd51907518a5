"""Leave where a small classifier, learnt on calibration data, expects the answer to stay as it is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from openglm.dynamic.gates.confidence import Confidence
from openglm.dynamic.gates.entropy import Entropy
from openglm.dynamic.gates.gate import AnswerGate, State, probabilities, where_sure

FEATURES = 3
RIDGE = 1e-2
STEPS = 25


class Learned(AnswerGate):
    """Sure where a logistic regression on what an exit says is at least `threshold`.

    Its features are the largest probability, its lead over the second, and the entropy.
    """

    kind: ClassVar[str] = "learned"

    weights: tuple[float, ...] = Field(min_length=FEATURES, max_length=FEATURES)
    bias: float
    threshold: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _finite(self) -> Learned:
        if not np.isfinite([*self.weights, self.bias]).all():
            raise ValueError("its weights are not finite numbers")
        return self

    def score(self, logits: np.ndarray) -> np.ndarray:
        """How probable it is that the answer stays, (rows,)."""
        found: np.ndarray = _sigmoid(features(logits) @ np.array(self.weights) + self.bias)
        return found

    def decide(self, state: State) -> np.ndarray:
        return where_sure(self.score(state[self.output]) >= self.threshold)


def features(logits: np.ndarray) -> np.ndarray:
    """What a learned gate looks at, (rows, 3)."""
    ordered = np.sort(probabilities(logits), axis=1)
    return np.stack(
        [Confidence.score(logits), ordered[:, -1] - ordered[:, -2], Entropy.score(logits)], axis=1
    )


def learn(logits: np.ndarray, stays: np.ndarray, output: str, threshold: float) -> Learned:
    """The gate fitted by Newton's method to rows whose answer `stays` (True) or changes; with a ridge.

    `logits` is (rows, classes), `stays` (rows,). Where all rows are of one kind the ridge keeps the
    weights finite.
    """
    given = features(logits)
    known = np.isfinite(given).all(axis=1)
    x = np.concatenate([given[known], np.ones((known.sum(), 1))], axis=1)
    y = stays[known].astype(np.float64)
    weights = np.zeros(FEATURES + 1)
    for _ in range(STEPS):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - y) / max(len(y), 1) + RIDGE * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x / max(len(y), 1) + RIDGE * np.eye(FEATURES + 1)
        weights -= np.linalg.solve(hessian, gradient)
    *slopes, bias = (float(weight) for weight in weights)
    return Learned(output=output, weights=tuple(slopes), bias=bias, threshold=threshold)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * values))
    return found
