"""What classifiers decide, and what the labels say: numbers of classes, one of each for a sample."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from openglm.errors import InputError, nearest
from openglm.metrics.metric import Evaluation, checked_labels, main_output


class Decisions(NamedTuple):
    """A classifier's answers beside the labels."""

    predicted: np.ndarray
    """(samples,) int64; of a sample whose output is not finite another class than its label."""
    expected: np.ndarray
    """(samples,) int64."""
    classes: int
    """How many there are, at least two."""
    details: dict[str, float]
    """samples; majority (share of the most frequent label, which always answering it would get right);
    one_class (1, where the labels are all the same and no figure says much); non_finite (share of samples,
    where there are any)."""


def decisions(evaluation: Evaluation, metric: str) -> Decisions:
    """The greatest of the outputs (samples, classes); of one logit, class 1 where it is above 0.

    Labels are numbers of classes, or names: found in `classes` where it is given, else numbered in
    sorted order. Raises `InputError`, which names the metric, for outputs or labels that are none.
    """
    output = main_output(evaluation.outputs, metric)
    count = len(output)
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2 or output.shape[1] < 1:
        raise InputError(
            f"{metric} takes an output of shape [samples, classes], not {list(output.shape)}.",
            "Use fidelity, or a metric of your own (module:function).",
        )
    labels = checked_labels(evaluation, count, metric)
    width = output.shape[1]
    classes = max(width, 2)
    expected = _numbers(labels, evaluation.classes, classes, metric)
    finite = np.isfinite(output).all(1)
    predicted = output.argmax(1) if width > 1 else (output[:, 0] > 0).astype(np.int64)
    predicted = np.where(finite, predicted, (expected + 1) % classes)
    counts = np.unique(expected, return_counts=True)[1]
    details = {"samples": float(count), "majority": float(counts.max() / count)}
    if len(counts) == 1:
        details["one_class"] = 1.0
    if not finite.all():
        details["non_finite"] = float(np.mean(~finite))
    return Decisions(predicted, expected, classes, details)


def _numbers(labels: np.ndarray, classes: tuple[str, ...] | None, width: int, metric: str) -> np.ndarray:
    """Labels as numbers of classes below `width`."""
    if labels.dtype.kind in "OUS":
        try:
            numbers = np.asarray(labels, np.float64)
        except (TypeError, ValueError):
            return _by_name([str(label) for label in labels], classes, width)
    elif labels.dtype.kind in "iufb":
        numbers = labels.astype(np.float64)
    else:
        raise InputError(f"{metric} was given labels of type {labels.dtype}.", "Give numbers or names.")
    wrong = numbers[~((numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < width))]
    if wrong.size:
        raise InputError(
            f"The label {wrong[0]:g} is none of the model's {width} classes.",
            f"{metric} takes labels from 0 to {width - 1}; for scores use spearman.",
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
