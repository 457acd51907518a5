"""Accuracy: the share of samples whose class is the label."""

from __future__ import annotations

import numpy as np

from openglm.metrics.decisions import decisions
from openglm.metrics.metric import Evaluation, Score


class Accuracy:
    """The class is the greatest of the outputs (samples, classes); of one logit, 1 where it is above 0."""

    name = "accuracy"
    needs_labels = True
    needs_reference = False
    higher_is_better = True

    def score(self, evaluation: Evaluation) -> Score:
        """Accuracy in [0, 1]; a sample whose output is not finite is wrong.

        Labels and details are those of `decisions`.
        """
        found = decisions(evaluation, "Accuracy")
        return Score(float(np.mean(found.predicted == found.expected)), found.details)


metric = Accuracy()
