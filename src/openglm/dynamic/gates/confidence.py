"""Leave where the most probable class is probable enough (BranchyNet: Teerapittayanon et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import ProbabilityGate, State, probabilities, where_sure


class Confidence(ProbabilityGate):
    """Sure where the largest probability is at least `threshold`."""

    kind: ClassVar[str] = "confidence"

    threshold: float = Field(ge=0, le=1)

    @staticmethod
    def score(logits: np.ndarray) -> np.ndarray:
        """The largest probability, (rows,)."""
        found: np.ndarray = np.maximum.reduce(probabilities(logits), axis=1)
        return found

    def decide(self, state: State) -> np.ndarray:
        return where_sure(self.score(state[self.output]) >= self.threshold)

    def leaves(self, shares: Sequence[float]) -> bool:
        return max(shares) >= self.threshold
