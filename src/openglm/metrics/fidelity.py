"""Fidelity: how close the outputs stay to the original model's. Needs no labels.

The cosine of a sample is that between its output and the original's, each flattened. It says nothing
of an output with one element, for which stands 1 - min(1, |difference| / r), r being the root mean
square of the original's outputs over all samples, and little of a classifier's two, of which it is the sign
of their difference; there stands 1 - |difference| of the second class's probability. For integer outputs
stands the share of equal elements. Two zero vectors count 1, one zero vector 0. A model with several
outputs is as good as its worst one.

The value is in [0, 1], 1 where nothing changed, so that "at most 0.01 lost" means the same for
every task:

- for an embedding, min(mean cosine, 1 - neighbour regret). Small errors that all point the same way,
  or embeddings that lie close together, leave the cosine high and the order of neighbours wrong; a
  rotation of the whole space leaves the neighbours right and an index built before useless. So both.
- for a classifier, min(mean cosine, 1 - decision regret): the probability, by the original's
  reckoning, that is lost by deciding otherwise. Where the original is calibrated, this is the
  accuracy to be lost; a change of mind between two equally likely classes costs nothing.
- else the mean cosine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openglm.errors import InputError
from openglm.metrics.metric import Arrays, Evaluation, Score, main_output

# Neighbours are looked for among this many samples at most: their number grows by the square.
_NEIGHBOURS_AMONG = 4096
_BLOCK = 512

# Similarities nearer than this are one: float32 arithmetic in another order moves them as much.
_TIE = 1e-6


class Fidelity:
    """See the module."""

    name = "fidelity"
    needs_labels = False
    needs_reference = True
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """The value above, with what made it as details.

        Details: cosine; relative_error (norm of the difference over that of the original, the mean);
        non_finite (share of samples with NaN or infinity, where there are any: the value is then 0);
        for embeddings nearest_kept and neighbour_regret; for classifiers argmax_kept and decision_regret.
        """
        outputs, reference = evaluation.outputs, evaluation.reference
        if reference is None:
            raise InputError(
                "Fidelity needs the original model's outputs.", "Evaluate the original on the same samples."
            )
        _check(outputs, reference)
        broken = _non_finite(outputs)
        if broken:
            return Score(0.0, {"non_finite": broken})
        classes = evaluation.task.endswith("classification")
        closeness = [_closeness(outputs[name], reference[name], classes) for name in reference]
        cosine = min(value for value, _ in closeness)
        details = {"cosine": cosine, "relative_error": max(error for _, error in closeness)}
        value = cosine
        if evaluation.task == "embedding":
            details |= _neighbours(outputs, reference, evaluation.pairs)
            value = min(value, 1 - details.get("neighbour_regret", 0.0))
        elif classes:
            details |= _decisions(outputs, reference)
            value = min(value, 1 - details.get("decision_regret", 0.0))
        return Score(min(1.0, max(0.0, value)), details)


metric = Fidelity()


def _check(outputs: Arrays, reference: Arrays) -> None:
    if not reference or set(outputs) != set(reference):
        raise InputError(
            f"The outputs are {', '.join(sorted(outputs)) or 'none'} and the original's "
            f"{', '.join(sorted(reference)) or 'none'}.",
            "Compare models with the same outputs.",
        )
    for name, rows in reference.items():
        if len(rows) != len(outputs[name]) or not len(rows):
            raise InputError(
                f"'{name}' holds {len(outputs[name])} samples and the original's {len(rows)}.",
                "Evaluate both on the same samples, at least one.",
            )
    if _non_finite(reference):
        raise InputError(
            "The original model gives NaN or infinity on these samples.", "Check the model and its inputs."
        )


def _non_finite(outputs: Arrays) -> float:
    """Share of samples with NaN or infinity in any output."""
    finite = [[bool(np.isfinite(row).all()) for row in rows] for rows in outputs.values()]
    return 1 - sum(map(all, zip(*finite, strict=True))) / len(finite[0])


def _closeness(
    rows: np.ndarray | Sequence[np.ndarray], originals: np.ndarray | Sequence[np.ndarray], classes: bool
) -> tuple[float, float]:
    """Mean cosine (or what stands for it) and mean relative error of one output."""
    scalar = all(np.size(row) == 1 for row in originals)
    scale = float(np.sqrt(np.mean([np.square(np.float64(row)) for row in originals]))) if scalar else 0.0
    found = [
        _sample(np.asarray(row), np.asarray(original), scale)
        for row, original in zip(rows, originals, strict=True)
    ]
    cosine, error = np.mean(found, axis=0)
    if classes and all(np.shape(row) == (2,) for row in (*rows, *originals)):
        new, old = (_probabilities(np.asarray(both, np.float64))[:, 1] for both in (rows, originals))
        cosine = 1 - np.abs(new - old).mean()
    return float(cosine), float(error)


def _sample(row: np.ndarray, original: np.ndarray, scale: float) -> tuple[float, float]:
    if row.shape != original.shape:
        return 0.0, 1.0
    if original.dtype.kind not in "fc":
        equal = float(np.mean(row == original)) if row.size else 1.0
        return equal, 1 - equal
    a, b = row.astype(np.float64).ravel(), original.astype(np.float64).ravel()
    norm_a, norm_b, difference = (float(np.linalg.norm(vector)) for vector in (a, b, a - b))
    if difference == 0:
        return 1.0, 0.0
    if a.size == 1:
        error = difference / scale if scale else 1.0
        return 1 - min(1.0, error), error
    error = difference / norm_b if norm_b else 1.0
    return (float(a @ b) / (norm_a * norm_b) if norm_a and norm_b else 0.0), error


def _neighbours(outputs: Arrays, reference: Arrays, pairs: bool) -> dict[str, float]:
    """What becomes of each sample's nearest neighbour, by cosine, among the samples.

    `neighbour_regret` is the similarity, by the original's reckoning, that is lost by taking the
    candidate's nearest neighbour, the mean; `nearest_kept` the share that lose nothing. Equally near
    neighbours of the original are as good as each other; between those of the candidate the worst
    is taken, so that embeddings that all became one keep nothing.
    """
    new, old = (_directions(arrays, pairs) for arrays in (outputs, reference))
    if new is None or old is None or len(old) < 3:
        return {}
    regrets = []
    for start in range(0, len(old), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(old)))
        here = rows - start
        old_near, new_near = old[rows] @ old.T, new[rows] @ new.T
        old_near[here, rows] = new_near[here, rows] = -np.inf
        chosen = new_near >= new_near.max(1, keepdims=True) - _TIE
        regrets.append(old_near.max(1) - np.where(chosen, old_near, np.inf).min(1))
    regret = np.concatenate(regrets)
    return {
        "nearest_kept": float(np.mean(regret <= _TIE)),
        "neighbour_regret": float(np.mean(np.where(regret <= _TIE, 0.0, regret))),
    }


def _directions(arrays: Arrays, pairs: bool) -> np.ndarray | None:
    """Embeddings (samples, width) at length 1; None where the output is no such thing."""
    rows = main_output(arrays, "fidelity")
    if pairs and rows.ndim == 3:
        rows = rows.reshape(-1, rows.shape[-1])
    if rows.ndim != 2 or rows.dtype.kind != "f":
        return None
    rows = rows[:_NEIGHBOURS_AMONG].astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms == 0, 1, norms))


def _decisions(outputs: Arrays, reference: Arrays) -> dict[str, float]:
    """How many samples keep their class, and the probability that the others lose."""
    new, old = main_output(outputs, "fidelity"), main_output(reference, "fidelity")
    if old.ndim != 2 or new.shape != old.shape or old.shape[1] < 2 or old.dtype.kind != "f":
        return {}
    rows = np.arange(len(old))
    probability = _probabilities(old.astype(np.float64))
    regret = probability.max(1) - probability[rows, new.argmax(1)]
    return {
        "argmax_kept": float(np.mean(new.argmax(1) == old.argmax(1))),
        "decision_regret": float(np.mean(regret)),
    }


def _probabilities(rows: np.ndarray) -> np.ndarray:
    """The rows where they are probabilities already, else their softmax."""
    if (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-3):
        return rows
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
