"""F1: the harmonic mean of precision and recall, as MRPC and QQP are judged."""

from __future__ import annotations

import numpy as np

from openglm.errors import InputError
from openglm.metrics.decisions import decisions
from openglm.metrics.metric import Evaluation, Score


class F1:
    """Of class 1 among two: "equivalent", "duplicate", whatever is looked for."""

    name = "f1"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """F1 in [0, 1]; 0 where class 1 is neither a label nor an answer.

        Labels and details are those of `decisions`; and precision and recall, where they are defined.
        Raises `InputError` for more than two classes.
        """
        found = decisions(evaluation, "F1")
        if found.classes > 2:
            raise InputError(
                f"F1 is of one class among two, and the model has {found.classes}.",
                "Use accuracy or matthews.",
            )
        right = int(np.sum((found.predicted == 1) & (found.expected == 1)))
        answers, labels = int(np.sum(found.predicted == 1)), int(np.sum(found.expected == 1))
        details = dict(found.details)
        if answers:
            details["precision"] = right / answers
        if labels:
            details["recall"] = right / labels
        return Score(2 * right / (answers + labels) if answers + labels else 0.0, details)


metric = F1()
