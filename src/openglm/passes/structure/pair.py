"""A small model and a large one that take the same inputs and answer with the same classes."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Program, Segment
from openglm.dynamic.calibration import CERTAINTY
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import AutoModel
from openglm.model.tensor import specs
from openglm.passes.contract import Draft, ProgramPass
from openglm.passes.structure.segments import answers_of
from openglm.runtimes.onnxruntime import NAME

SMALL, LARGE = "small", "large"


class Beside(ProgramPass):
    """A pass that puts a small model beside this one."""

    needs_calibration: ClassVar[bool] = True
    leaves_whole: ClassVar[bool] = True

    small: str
    """The small model, as `AutoModel` reads it."""
    max_drop: float = Field(default=0.005, ge=0, le=1)
    """What the small model's answers may cost in the mean, where that decides: of accuracy, or, where there
    are no labels, of agreement with the large model."""
    certainty: float = Field(default=CERTAINTY, gt=0, lt=1)
    """With which they cost no more on inputs of the same kind."""
    samples: int = Field(default=2000, ge=2)
    """Of the data, at most."""

    def pair(self, large: ir.Model) -> Pair:
        """Both models; raises `InputError` where they do not take and give the same."""
        small = AutoModel.from_pretrained(self.small).graph.clone()
        answer = _alike(small, large)
        return Pair(small, large, answer, analyse(small).macs / max(analyse(large).macs, 1))


class Pair(NamedTuple):
    """Both models."""

    small: ir.Model
    large: ir.Model
    answer: str
    """The output's name."""
    work: float
    """The small one's multiply-accumulates as a share of the large one's."""

    def answers(self, samples: Samples) -> np.ndarray:
        """What the small one and the large one say, (2, rows, classes)."""
        models = (self.small, self.large)
        return np.stack([answers_of(model, self.answer, samples.inputs) for model in models])

    def segments(self, following: str | None = None) -> tuple[Segment, ...]:
        """Both as segments; `following` runs after the small one."""
        outputs = (specs(self.large.graph.outputs)[0],)
        return tuple(
            Segment(name=name, models={NAME: f"{name}.onnx"}, outputs=outputs, work=work, next=then)
            for name, work, then in ((SMALL, round(self.work, 6), following), (LARGE, 1.0, None))
        )

    def draft(self, program: Program, note: str) -> Draft:
        """A program of both."""
        return Draft(program, {SMALL: self.small, LARGE: self.large}, (note,), whole=LARGE)

    def alone(self, note: str) -> Draft:
        """The large one, where the small one may answer nothing."""
        return Draft(Program(segments=self.segments()[1:]), {LARGE: self.large}, (note,), whole=LARGE)


def _alike(small: ir.Model, large: ir.Model) -> str:
    """The answer's name, which the small model's is given; raises `InputError` where the two differ."""
    taken = {spec.name: spec.dtype for spec in specs(large.graph.inputs)}
    if (ours := {spec.name: spec.dtype for spec in specs(small.graph.inputs)}) != taken:
        raise InputError(
            f"The small model takes {', '.join(ours)}, and this one {', '.join(taken)}.",
            "Take a small model with the same inputs.",
        )
    given = [specs(model.graph.outputs) for model in (small, large)]
    if any(len(outputs) != 1 for outputs in given) or given[0][0].shape[1:] != given[1][0].shape[1:]:
        raise InputError(
            f"The small model gives {', '.join(map(str, given[0]))}, and this one "
            f"{', '.join(map(str, given[1]))}.",
            "Take a small model that answers with the same classes.",
        )
    small.graph.outputs[0].name = given[1][0].name
    return given[1][0].name
