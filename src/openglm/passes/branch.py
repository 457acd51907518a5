"""An input-dependent branch: small inputs take a shallow model, large ones the deep one.

What is small is a picture's longer side, or a text's length in tokens: up to a limit that is given, or
that the data allow.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Gate, Program
from openglm.dynamic.calibration import Option, calibrate
from openglm.dynamic.gates.gate import GateConfig
from openglm.dynamic.gates.length import Length
from openglm.dynamic.gates.size import Size
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.tensor import specs
from openglm.passes.contract import Context, Draft
from openglm.passes.structure.pair import LARGE, SMALL, Beside, Pair
from openglm.passes.structure.segments import TOKENS

SIDES = (2, 3)
"""Height and width of pictures (rows, channels, height, width)."""


class Branch(Beside):
    """Put a small model beside this one; both take the same inputs and answer with the same classes.

    Raises `InputError` where they do not, and for a model whose inputs have one size only.
    """

    scheme: ClassVar[str] = "branch"

    limit: int | None = Field(default=None, ge=1)
    """The longer side of pictures, in pixels, or the number of tokens, up to which the small model
    answers. If not given, the most at which that costs no more than `max_drop`."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.limit}" if self.limit is not None else self.scheme

    @property
    def sets_gates(self) -> bool:
        return self.limit is None

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        measured = _measured(graph)
        pair = self.pair(graph)
        limit, note = self.limit, f"The small model answers up to {self.limit} {_unit(measured)}."
        if limit is None:
            limit, note = self._allowed(pair, measured, context)
        if limit is None:
            return pair.alone(note)
        gate: GateConfig = (
            Length(mask=TOKENS, buckets=(limit,))
            if measured == TOKENS
            else Size(input=measured, axes=SIDES, limit=limit)
        )
        program = Program(
            segments=pair.segments(),
            gates=(
                Gate(
                    name="branch",
                    kind=gate.kind,
                    settings=gate.model_dump(mode="json"),
                    routes=(SMALL, LARGE),
                ),
            ),
            start="branch",
        )
        draft = pair.draft(program, note)
        return draft if measured == TOKENS else replace(draft, small=limit)

    def _allowed(self, pair: Pair, measured: str, context: Context) -> tuple[int | None, str]:
        if context.labelled is None:
            raise InputError(
                "Without a limit, a branch needs data to find one on.", "Give --data, or the limit."
            )
        samples = Samples.of(islice(context.labelled(), self.samples))
        sizes = np.concatenate([_sizes(batch[measured], measured) for batch in samples.inputs])
        if sizes.min() == sizes.max():
            raise InputError(
                f"All samples come with {sizes[0]:g} {_unit(measured)}, which shows no limit.",
                "Give the limit.",
            )
        answers = pair.answers(samples)
        losses, work = samples.losses(answers, answers[1]), np.array([pair.work, 1.0])
        option = Option(-sizes[None].astype(np.float64), losses, work)
        found = calibrate([option], self.max_drop, self.certainty)
        least = found.thresholds[0]
        if least is None:
            reason = samples.unproven(found, self.max_drop, self.certainty)
            return None, f"The small model answers nothing: {reason}."
        limit = int(-least)
        cost = samples.cost(found, self.max_drop, self.certainty)
        return limit, f"The small model answers up to {limit} {_unit(measured)}: {cost}."


def _measured(graph: ir.Model) -> str:
    """The input that has a size to go by."""
    inputs = specs(graph.graph.inputs)
    for spec in inputs:
        if spec.name == TOKENS and len(spec.shape) == 2 and not isinstance(spec.shape[1], int):
            return spec.name
    for spec in inputs:
        if len(spec.shape) == 4 and not any(isinstance(spec.shape[axis], int) for axis in SIDES):
            return spec.name
    raise InputError(
        "The model's inputs have one size only, or none to go by.",
        f"Take a model with open height and width, or one with an {TOKENS}.",
    )


def _unit(measured: str) -> str:
    return "tokens" if measured == TOKENS else "pixels of the longer side"


def _sizes(array: np.ndarray, measured: str) -> np.ndarray:
    """How large each row is, (rows,)."""
    if measured == TOKENS:
        return Length.lengths(array)
    return np.full(len(array), max(array.shape[axis] for axis in SIDES))
