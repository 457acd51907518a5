"""From a model's outputs to the official figures of a task, and to the one number that GLUE makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openglm.errors import InputError
from openglm.glue.tasks import Task
from openglm.metrics import Evaluation, resolve


def scores(
    task: Task, outputs: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[Any]]
) -> dict[str, float]:
    """The task's figures by name, such as "f1" or "matched accuracy".

    `outputs`, arrays (rows, task.outputs), and `labels` are by the names of `Task.dev`. Raises
    `InputError` where the labels are all the same: no figure would mean anything.
    """
    found = {}
    for part, rows in outputs.items():
        given = np.asarray(labels[part])
        if len(np.unique(given)) == 1:
            which = f"{part} dev data" if part else "dev data"
            raise InputError(
                f"All {len(given)} labels of {task.name}'s {which} are {given[0]}.",
                "Judge on more rows, of several classes.",
            )
        evaluation = Evaluation({"logits": rows}, labels=given, task="classification")
        for metric in task.metrics:
            found[f"{part} {metric}".strip()] = resolve(metric).score(evaluation).value
    return found


def mean(figures: Mapping[str, float]) -> float:
    """What a task counts in GLUE's average: the mean of its figures."""
    return sum(figures.values()) / len(figures)
