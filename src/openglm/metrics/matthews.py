"""Matthews' correlation of answers and labels, as CoLA is judged (Matthews 1975)."""

from __future__ import annotations

import numpy as np

from openglm.metrics.decisions import decisions
from openglm.metrics.metric import Evaluation, Score


class Matthews:
    """For two classes the correlation of two 0-1 variables; for more, its generalisation R_K
    (Gorodkin 2004). Unlike accuracy it is 0 for a model that always answers the same."""

    name = "matthews"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """The correlation in [-1, 1]; 0 where it is not defined.

        Labels and details are those of `decisions`; and constant (1, where all answers or all labels
        are the same and the correlation is not defined).
        """
        found = decisions(evaluation, "Matthews")
        count = len(found.expected)
        answered = np.bincount(found.predicted, minlength=found.classes).astype(np.float64)
        labelled = np.bincount(found.expected, minlength=found.classes).astype(np.float64)
        spread = (count**2 - answered @ answered) * (count**2 - labelled @ labelled)
        if spread == 0:
            return Score(0.0, found.details | {"constant": 1.0})
        right = float(np.sum(found.predicted == found.expected))
        return Score(float((count * right - answered @ labelled) / np.sqrt(spread)), found.details)


metric = Matthews()
