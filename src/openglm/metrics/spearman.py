"""Spearman's rank correlation: whether scores have the order of the labels, as STS-B is judged."""

from __future__ import annotations

import numpy as np

from openglm.errors import InputError
from openglm.metrics.metric import Evaluation, Score, checked_labels, main_output


class Spearman:
    """Correlates the labels with one output number a sample, or with the cosine of a pair's embeddings."""

    name = "spearman"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """The correlation in [-1, 1], ties by average ranks; 0 where it is not defined.

        Where `pairs` is true the output is (samples, 2, ...), else (samples,) or (samples, 1).
        Details: samples; constant (1, where all scores or all labels are equal); non_finite (share
        of samples with NaN or infinity, where there are any: the value is then 0).
        """
        output = main_output(evaluation.outputs, "Spearman")
        scores = _scores(output.astype(np.float64), evaluation.pairs)
        count = len(scores)
        labels = _numbers(checked_labels(evaluation, count, "Spearman"))
        details = {"samples": float(count)}
        finite = np.isfinite(scores)
        if not finite.all():
            return Score(0.0, details | {"non_finite": float(np.mean(~finite))})
        x, y = (ranks(values) - (count + 1) / 2 for values in (scores, labels))
        norm = float(np.sqrt((x @ x) * (y @ y)))
        if norm == 0:
            return Score(0.0, details | {"constant": 1.0})
        return Score(min(1.0, max(-1.0, float(x @ y) / norm)), details)


metric = Spearman()


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 on of values (n,); equal ones share the average of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(average[inverse.ravel()])


def _scores(output: np.ndarray, pairs: bool) -> np.ndarray:
    if pairs and output.ndim >= 3 and output.shape[1] == 2:
        first, second = (output[:, side].reshape(len(output), -1) for side in (0, 1))
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            dots = np.einsum("nd,nd->n", first, second)
            return np.asarray(dots / np.where(norms == 0, 1, norms))
    if not pairs and output.size == len(output):
        return output.reshape(-1)
    wanted = "[samples, 2, width] of a pair's embeddings" if pairs else "[samples, 1]"
    raise InputError(
        f"Spearman takes an output of shape {wanted}, not {list(output.shape)}.",
        "Give pairs of texts to an embedding model, or use another metric.",
    )


def _numbers(labels: np.ndarray) -> np.ndarray:
    try:
        numbers = labels.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Spearman needs labels that are numbers: {error}.", "Correct them.") from error
    if not np.isfinite(numbers).all():
        raise InputError("Spearman was given a label that is NaN or infinite.", "Correct it.")
    return numbers
