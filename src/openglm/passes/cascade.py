"""A cascade: a small model reads every input, and the large one only those that need it.

Either the small model answers where it is sure (Viola and Jones 2001 had the first that was fast enough
for a camera), or, the wake-word case, it only decides whether the large one is to run at all.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Gate, Program
from openglm.dynamic.chain import WHOLE, Way
from openglm.dynamic.gates.gate import AnswerGate
from openglm.dynamic.gates.wake import Wake, wanted_rows
from openglm.dynamic.leaving import settle
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.passes.contract import Context, Draft
from openglm.passes.structure.pair import LARGE, Beside, Pair


class Cascade(Beside):
    """Put a small model before this one; both take the same inputs and answer with the same classes.

    Raises `InputError` where they do not, or without data to set the threshold on.
    """

    scheme: ClassVar[str] = "cascade"

    wake: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """The classes that the large model is for: it runs where the small one thinks one of them likely
    enough. If not given, it runs where the small one is not sure of its answer."""
    false_rejects: float = Field(default=0.01, ge=0, lt=1)
    """With `wake`: the share of the samples of those classes that may be missed."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_wake" if self.wake is not None else self.scheme

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        if context.labelled is None:
            raise InputError("A cascade needs data to set its threshold on.", "Give --data.")
        pair = self.pair(graph)
        samples = Samples.of(islice(context.labelled(), self.samples))
        answers = pair.answers(samples)
        if self.wake is None:
            gate, note = self._where_sure(answers, samples, pair)
        else:
            gate, note = self._where_wanted(answers[0], samples, pair.answer)
        if gate is None:
            return pair.alone(note)
        settings = gate.model_dump(mode="json")
        program = Program(
            segments=pair.segments("gate"),
            gates=(Gate(name="gate", kind=gate.kind, settings=settings, routes=(None, LARGE)),),
        )
        return pair.draft(program, note)

    def _where_sure(self, answers: np.ndarray, samples: Samples, pair: Pair) -> tuple[AnswerGate | None, str]:
        shares = np.array([pair.work, 1 + pair.work])
        way = Way(WHOLE, answers, shares, np.zeros(2, int))
        settled = settle("confidence", [way], pair.answer, samples, self.max_drop, self.certainty)
        (gate,) = settled.gates
        if gate is None:
            reason = samples.unproven(settled.found, self.max_drop, self.certainty)
            return None, f"The small model answers nothing: {reason}."
        cost = samples.cost(settled.found, self.max_drop, self.certainty)
        return gate, f"The small model answers where it is sure: {cost}."

    def _where_wanted(self, said: np.ndarray, samples: Samples, answer: str) -> tuple[AnswerGate, str]:
        assert self.wake is not None
        if max(self.wake) >= said.shape[-1]:
            raise InputError(
                f"The small model has {said.shape[-1]} classes, and none numbered {max(self.wake)}.",
                "Number classes from 0.",
            )
        wanted = wanted_rows(samples, self.wake)
        gate = Wake(output=answer, classes=self.wake, threshold=0).set_by(said, wanted, self.false_rejects)
        return gate, gate.told(said, wanted)
