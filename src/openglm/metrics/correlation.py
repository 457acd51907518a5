"""What is correlated with the labels: a model's scores, one number a sample."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from openglm.errors import InputError
from openglm.metrics.metric import Evaluation, Score, checked_labels, main_output


def correlation(evaluation: Evaluation, metric: str, centred: Callable[[np.ndarray], np.ndarray]) -> Score:
    """The cosine of scores and labels, each made deviations from its mean by `centred`; (n,) to (n,).

    A score is one output number a sample, (samples,) or (samples, 1); or, where `pairs` is true, the
    cosine of a pair's embeddings, (samples, 2, ...). The value is in [-1, 1], 0 where it is not
    defined. Details: samples; constant (1, where all scores or all labels are equal); non_finite
    (share of samples with NaN or infinity, where there are any: the value is then 0).
    """
    output = main_output(evaluation.outputs, metric)
    scores = _scores(output.astype(np.float64), evaluation.pairs, metric)
    labels = _numbers(checked_labels(evaluation, len(scores), metric), metric)
    details = {"samples": float(len(scores))}
    finite = np.isfinite(scores)
    if not finite.all():
        return Score(0.0, details | {"non_finite": float(np.mean(~finite))})
    x, y = centred(scores), centred(labels)
    norm = float(np.sqrt((x @ x) * (y @ y)))
    if norm == 0:
        return Score(0.0, details | {"constant": 1.0})
    return Score(min(1.0, max(-1.0, float(x @ y) / norm)), details)


def _scores(output: np.ndarray, pairs: bool, metric: str) -> np.ndarray:
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
        f"{metric} takes an output of shape {wanted}, not {list(output.shape)}.",
        "Give pairs of texts to an embedding model, or use another metric.",
    )


def _numbers(labels: np.ndarray, metric: str) -> np.ndarray:
    try:
        numbers = labels.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{metric} needs labels that are numbers: {error}.", "Correct them.") from error
    if not np.isfinite(numbers).all():
        raise InputError(f"{metric} was given a label that is NaN or infinite.", "Correct it.")
    return numbers
