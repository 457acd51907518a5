"""Leave where the distribution over classes is narrow enough (DeeBERT: Xin et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import ProbabilityGate, State, probabilities, where_sure


class Entropy(ProbabilityGate):
    """Sure where the entropy, as a share of its maximum, is at most `threshold`."""

    kind: ClassVar[str] = "entropy"

    threshold: float = Field(ge=0, le=1)

    @staticmethod
    def score(logits: np.ndarray) -> np.ndarray:
        """The entropy divided by the logarithm of the number of classes, (rows,)."""
        shares = probabilities(logits)
        terms = shares * np.log(np.where(shares > 0, shares, 1.0))
        found: np.ndarray = -terms.sum(axis=1) / np.log(shares.shape[1])
        return found

    def decide(self, state: State) -> np.ndarray:
        return where_sure(self.score(state[self.output]) <= self.threshold)

    def leaves(self, shares: Sequence[float]) -> bool:
        entropy = -sum(share * math.log(share) for share in shares if share > 0) / math.log(len(shares))
        return entropy <= self.threshold
