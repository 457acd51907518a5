"""Leave once several exits in a row agree (PABEE: Zhou et al. 2020).

Works for regression too, where two answers agree that differ by little.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from openglm.dynamic.gates.gate import AnswerGate, State, finite, where_sure

_ANSWER, _RUN = "patience/answer", "patience/run"


class Patience(AnswerGate):
    """Sure once `patience` exits in a row have given what the one before them gave."""

    kind: ClassVar[str] = "patience"

    patience: int = Field(ge=1)
    tolerance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How far two answers may differ where the output is one number; classes must be the same."""

    @property
    def keeps(self) -> tuple[str, ...]:
        return (_ANSWER, _RUN)

    def decide(self, state: State) -> np.ndarray:
        logits = state[self.output].reshape(len(state[self.output]), -1)
        if logits.shape[1] > 1:
            answer = logits.argmax(axis=1).astype(np.float64)
        else:
            answer = logits[:, 0].astype(np.float64)
        answer = np.where(finite(logits), answer, np.nan)
        run = np.zeros(len(answer), np.int64)
        if _ANSWER in state:
            # NaN agrees with nothing, so that what is no answer begins anew.
            agrees = np.abs(answer - state[_ANSWER]) <= self.tolerance
            run = np.where(agrees, state[_RUN] + 1, 0)
        state[_ANSWER], state[_RUN] = answer, run
        return where_sure(run >= self.patience)
