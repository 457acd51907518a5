"""What gates are settled by: inputs with their labels, and what an answer to them costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from openglm.dynamic.calibration import Calibrated
from openglm.dynamic.gates.gate import probabilities
from openglm.errors import InputError

Labelled = tuple[Mapping[str, np.ndarray], float | None]
"""Inputs, and the label of all their rows."""


def row_by_row(labelled: Iterable[Labelled]) -> Iterator[Labelled]:
    """Batches of any size as ones of a single row."""
    for batch, label in labelled:
        for row in range(len(next(iter(batch.values())))):
            yield {name: array[row : row + 1] for name, array in batch.items()}, label


class Samples(NamedTuple):
    """What gates are settled by."""

    inputs: list[Mapping[str, np.ndarray]]
    """One row each."""
    labels: list[float | None]
    """One a row."""

    def of_rows(self, rows: np.ndarray) -> Samples:
        """Those at these places."""
        return Samples([self.inputs[row] for row in rows], [self.labels[row] for row in rows])

    @classmethod
    def of(cls, labelled: Iterable[Labelled]) -> Samples:
        """Raises `InputError` where there are none."""
        rows = list(row_by_row(labelled))
        if not rows:
            raise InputError("The data holds no sample to set gates on.", "Give data with at least two.")
        return cls([inputs for inputs, _ in rows], [label for _, label in rows])

    @property
    def known(self) -> bool:
        """Whether there are labels."""
        return all(label is not None for label in self.labels)

    @property
    def judged(self) -> str:
        """What a loss is of, in words."""
        if not self.known:
            return "of agreement with the whole model"
        fractions = any(label is not None and label % 1 for label in self.labels)
        return "of the labels' range" if fractions else "of accuracy"

    def cost(self, found: Calibrated, max_drop: float, certainty: float) -> str:
        """What calibrated thresholds do, in words."""
        return (
            f"{found.work:.0%} of the work on {found.rows} samples, at a cost of {found.drop:.4f} "
            f"{self.judged}, and with {certainty:.0%} certainty of at most {max_drop:g}"
        )

    def unproven(self, found: Calibrated, max_drop: float, certainty: float) -> str:
        """Why no threshold is set, in words."""
        return (
            f"{found.rows} samples do not show, with {certainty:.0%} certainty, that it would cost at most "
            f"{max_drop:g} {self.judged}"
        )

    def losses(self, answers: np.ndarray, end: np.ndarray) -> np.ndarray:
        """From 0 to 1, (..., rows), of answers (..., rows, classes): wrong or right; of one number, how far
        off as a share of the range. A label between 0 and 1 is the probability that the second of two classes
        should have. Without labels, `end`, (rows, classes), is what is right; of two classes, that the
        second's probability is another costs as much, too: it may be read as a score."""
        if end.shape[-1] > 1:
            wanted = np.array(self.labels, np.float64) if self.known else end.argmax(-1)
            wrong: np.ndarray = (answers.argmax(-1) != wanted).astype(np.float64)
            if end.shape[-1] == 2 and not self.known:
                wrong = np.maximum(wrong, _apart(answers, probabilities(end)[:, 1]))
                return wrong
            between = (wanted % 1 != 0) & (end.shape[-1] == 2)
            if between.any():
                wrong[..., between] = _apart(answers[..., between, :], wanted[between])
            return wrong
        right = np.array(self.labels, np.float64) if self.known else end[..., 0].astype(np.float64)
        span = float(np.ptp(right)) or 1.0
        off = np.abs(answers[..., 0] - right) / span
        found: np.ndarray = np.clip(np.nan_to_num(off, nan=1.0), 0, 1)
        return found


def _apart(answers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far the second class's probability is from the one wanted, (..., rows), in answers (..., rows, 2);
    1 where it is no number."""
    second = probabilities(answers.reshape(-1, 2))[:, 1].reshape(answers.shape[:-1])
    found: np.ndarray = np.nan_to_num(np.abs(second - wanted), nan=1.0)
    return found
