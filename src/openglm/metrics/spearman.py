"""Spearman's rank correlation: whether scores have the order of the labels, as STS-B is judged."""

from __future__ import annotations

import numpy as np

from openglm.metrics.correlation import correlation
from openglm.metrics.metric import Evaluation, Score


class Spearman:
    """Correlates the labels with one output number a sample, or with the cosine of a pair's embeddings."""

    name = "spearman"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """As `correlation`, of ranks; ties by average ranks."""
        return correlation(evaluation, "Spearman", lambda values: ranks(values) - (len(values) + 1) / 2)


metric = Spearman()


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on of values (n,); equal ones share the average of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(average[inverse.ravel()])
