"""Accuracy: the share of samples whose class is the label."""

from __future__ import annotations

import numpy as np

from openglm.errors import InputError, nearest
from openglm.metrics.metric import Evaluation, Score, checked_labels, main_output


class Accuracy:
    """The class is the greatest of the outputs (samples, classes); of one logit, 1 where it is above 0."""

    name = "accuracy"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """Accuracy in [0, 1]; a sample whose output is not finite is wrong.

        Labels are numbers of classes, or names: found in `classes` where it is given, else numbered
        in sorted order. Details: samples; majority (what always answering the most frequent label
        would score); one_class (1, where the labels are all the same and the value says little);
        non_finite (share of samples, where there are any).
        """
        output = main_output(evaluation.outputs, "Accuracy")
        count = len(output)
        if output.ndim == 1:
            output = output[:, None]
        if output.ndim != 2 or output.shape[1] < 1:
            raise InputError(
                f"Accuracy takes an output of shape [samples, classes], not {list(output.shape)}.",
                "Use fidelity, or a metric of your own (module:function).",
            )
        labels = checked_labels(evaluation, count, "Accuracy")
        width = output.shape[1]
        expected = _numbers(labels, evaluation.classes, max(width, 2))
        finite = np.isfinite(output).all(1)
        predicted = output.argmax(1) if width > 1 else output[:, 0] > 0
        value = float(np.mean((predicted == expected) & finite))
        counts = np.unique(expected, return_counts=True)[1]
        details = {"samples": float(count), "majority": float(counts.max() / count)}
        if len(counts) == 1:
            details["one_class"] = 1.0
        if not finite.all():
            details["non_finite"] = float(np.mean(~finite))
        return Score(value, details)


metric = Accuracy()


def _numbers(labels: np.ndarray, classes: tuple[str, ...] | None, width: int) -> np.ndarray:
    """Labels as numbers of classes below `width`."""
    if labels.dtype.kind in "OUS":
        try:
            numbers = np.asarray(labels, np.float64)
        except (TypeError, ValueError):
            return _by_name([str(label) for label in labels], classes, width)
    elif labels.dtype.kind in "iufb":
        numbers = labels.astype(np.float64)
    else:
        raise InputError(f"Accuracy was given labels of type {labels.dtype}.", "Give numbers or names.")
    wrong = numbers[~((numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < width))]
    if wrong.size:
        raise InputError(
            f"The label {wrong[0]:g} is none of the model's {width} classes.",
            f"Accuracy takes labels from 0 to {width - 1}; for scores use spearman.",
        )
    return numbers.astype(np.int64)


def _by_name(names: list[str], classes: tuple[str, ...] | None, width: int) -> np.ndarray:
    if classes is None:
        found = sorted(set(names))
        if len(found) != width:
            raise InputError(
                f"The labels are {len(found)} names and the model has {width} classes.",
                f"Give labels as numbers from 0 to {width - 1}.",
            )
        classes = tuple(found)
    number = {name.lower(): index for index, name in enumerate(classes)}
    for name in names:
        if name.lower() not in number:
            raise InputError(f"The label '{name}' is none of the model's classes.", nearest(name, classes))
    return np.array([number[name.lower()] for name in names])
