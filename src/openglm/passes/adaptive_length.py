"""Adaptive length: every text runs at its own length, by bucket, and is never padded to the longest.

A batch is split by how many tokens its rows have, and arrays that were padded to a fixed length are cut.
It pays where texts of several lengths come together, or padded; not where they come one at a time.
"""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir
from pydantic import Field, field_validator

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.gates.length import Length
from openglm.errors import InputError
from openglm.model.tensor import specs
from openglm.passes.contract import Context, Draft, ProgramPass
from openglm.passes.structure.segments import TOKENS
from openglm.runtimes.onnxruntime import NAME

MODEL = "model"


class AdaptiveLength(ProgramPass):
    """Put a gate before the model that goes by length. Raises `InputError` for a model without a mask of
    tokens, or whose length is fixed."""

    scheme: ClassVar[str] = "adaptive_length"
    together: ClassVar[bool] = True
    leaves_whole: ClassVar[bool] = True

    buckets: tuple[int, ...] = Field(default=(8, 16, 32, 64, 128, 256), min_length=1)
    """The longest text of each, in tokens, ascending; what is longer runs at its own length too."""

    @field_validator("buckets")
    @classmethod
    def _valid(cls, buckets: tuple[int, ...]) -> tuple[int, ...]:
        return Length(buckets=buckets).buckets

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        inputs = specs(graph.graph.inputs)
        mask = next((spec for spec in inputs if spec.name == TOKENS and len(spec.shape) == 2), None)
        if mask is None or isinstance(mask.shape[1], int):
            problem = (
                f"The model has no input {TOKENS}, by which tokens are counted."
                if mask is None
                else f"The model takes {mask.shape[1]} tokens, no fewer."
            )
            raise InputError(problem, "Leave adaptive_length out for it.")
        cut = tuple(spec.name for spec in inputs if len(spec.shape) > 1 and spec.shape[1] == mask.shape[1])
        gate = Length(mask=TOKENS, buckets=self.buckets, cut=cut)
        program = Program(
            segments=(Segment(name=MODEL, models={NAME: "model.onnx"}, outputs=specs(graph.graph.outputs)),),
            gates=(
                Gate(
                    name="length",
                    kind=gate.kind,
                    settings=gate.model_dump(mode="json"),
                    routes=(MODEL,) * gate.ways,
                ),
            ),
            start="length",
        )
        return Draft(program, {MODEL: graph}, whole=MODEL)
