"""A small model decides whether a large one wakes: the wake-word case.

Leaving is what takes courage here: an input that is not let through is never seen by the large
model. The threshold follows from the share of wanted inputs that may be missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import ProbabilityGate, State, probabilities, where_sure
from openglm.dynamic.samples import Samples
from openglm.errors import InputError


class Wake(ProbabilityGate):
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

    def leaves(self, shares: Sequence[float]) -> bool:
        return sum(shares[place] for place in self.classes) < self.threshold

    def set_by(self, logits: np.ndarray, wanted: np.ndarray, false_rejects: float) -> Wake:
        """The same with the highest threshold at which at most that share of the `wanted` rows (rows,)
        of the small model's answers (rows, classes) is missed."""
        ordered = np.sort(self.score(logits)[wanted])
        least = float(ordered[int(np.floor(false_rejects * len(ordered)))])
        return self.model_copy(update={"threshold": least})

    def told(self, logits: np.ndarray, wanted: np.ndarray) -> str:
        """What it does with these rows, in words."""
        wakes = self.score(logits) >= self.threshold
        return (
            f"The large model wakes for {wakes.mean():.0%} of {len(wakes)} samples; of those it is for "
            f"{(~wakes[wanted]).mean():.2%} are missed."
        )


def wanted_rows(samples: Samples, classes: tuple[int, ...]) -> np.ndarray:
    """Which samples the large model is for, (rows,); raises `InputError` where labels do not say."""
    if not samples.known:
        raise InputError("Which inputs wake the large model is learnt from labels.", "Give labelled data.")
    wanted = np.isin(np.array(samples.labels), classes)
    if wanted.all() or not wanted.any():
        raise InputError(
            "The data has no sample that shall wake the large model, or none that shall not.",
            "Give data with both kinds.",
        )
    return wanted
