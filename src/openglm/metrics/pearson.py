"""Pearson's correlation: whether scores are the labels but for scale and offset, as STS-B is judged."""

from __future__ import annotations

import numpy as np

from openglm.metrics.correlation import correlation
from openglm.metrics.metric import Evaluation, Score


class Pearson:
    """Correlates the labels with one output number a sample, or with the cosine of a pair's embeddings."""

    name = "pearson"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """As `correlation`, of the values themselves."""
        return correlation(evaluation, "Pearson", _centred)


metric = Pearson()


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean, at most 1: exactly 0 where all are equal, and none too large to square."""
    if (values == values[0]).all():
        return np.zeros_like(values)
    most = np.abs(values).max()
    deviations = values / most - np.mean(values / most)
    return np.asarray(deviations / np.abs(deviations).max())
