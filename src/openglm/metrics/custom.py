"""A metric of the user's own: `module:function`, found in the current folder or installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openglm import named
from openglm.errors import InputError
from openglm.metrics.metric import Evaluation, Score


@dataclass(frozen=True)
class Custom:
    """Calls `function(outputs, labels, reference)`.

    `outputs` and `reference` are dictionaries of arrays (samples, ...) by output name, `labels` an
    array (samples,) or None. It returns a number, or a dictionary whose "value" is the number and
    whose other entries are details. Its attributes `higher_is_better` (else True), `needs_labels`
    and `needs_reference` (else False) say how it is used.
    """

    name: str
    function: Callable[..., Any]

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return bool(getattr(self.function, "higher_is_better", True))

    @property
    def needs_labels(self) -> bool:
        """Whether unlabelled data are of no use."""
        return bool(getattr(self.function, "needs_labels", False))

    @property
    def needs_reference(self) -> bool:
        """Whether the original's outputs must be there."""
        return bool(getattr(self.function, "needs_reference", False))

    def score(self, evaluation: Evaluation) -> Score:
        """What the function says; raises `InputError` where it fails or gives no finite number."""
        try:
            result = self.function(evaluation.outputs, evaluation.labels, evaluation.reference)
        except Exception as error:  # whatever the user's code raises is theirs to correct
            raise InputError(
                f"Metric '{self.name}' raised {type(error).__name__}: {error}.", "Correct the function."
            ) from error
        try:
            entries = dict(result) if isinstance(result, Mapping) else {"value": result}
            details = {str(key): float(value) for key, value in entries.items()}
            value = details.pop("value")
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"Metric '{self.name}' returned {result!r}.",
                'Return a number, or a dictionary of numbers with the key "value".',
            ) from error
        if not math.isfinite(value):
            raise InputError(f"Metric '{self.name}' returned {value}.", "Return a finite number.")
        return Score(value, details)


def load(name: str) -> Custom:
    """The metric that "module:function" names; raises `InputError` where it cannot be imported."""
    try:
        with named.importing(name) as module:
            pass
    except Exception as error:  # a user's module may raise anything when it is run
        raise InputError(
            f"The metric's module '{name.partition(':')[0]}' cannot be imported: "
            f"{type(error).__name__}: {error}.",
            named.advice(),
        ) from error
    return Custom(name, named.function(module, name))
