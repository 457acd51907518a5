"""A small model decides whether a large one wakes: the wake-word case.

Leaving is what takes courage here: an input that is not let through is never seen by the large
model. The threshold follows from the share of wanted inputs that may be missed.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gate import AnswerGate, State, probabilities, where_sure


class Wake(AnswerGate):
    """Ends where the probability of the classes that wake is below `threshold`; NaN wakes."""

    kind: ClassVar[str] = "wake"

    classes: tuple[int, ...] = Field(min_length=1)
    """The small model's classes that the large one is for."""
    threshold: float = Field(ge=0, le=1)

    def score(self, logits: np.ndarray) -> np.ndarray:
        """The probability of the classes that wake, (rows,)."""
        found: np.ndarray = probabilities(logits)[:, list(self.classes)].sum(axis=1)
        return found

    def decide(self, state: State) -> np.ndarray:
        return where_sure(self.score(state[self.output]) < self.threshold)


def threshold(scores: np.ndarray, false_rejects: float) -> float:
    """The highest threshold at which at most that share of wanted inputs' `scores` (rows,) is below it."""
    ordered = np.sort(scores)
    return float(ordered[int(np.floor(false_rejects * len(ordered)))])
