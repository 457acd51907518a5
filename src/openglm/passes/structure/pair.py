"""A small model and a large one that take the same inputs and answer with the same classes."""

from __future__ import annotations

import onnx_ir as ir

from openglm.bundle.manifest import Segment
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec, specs
from openglm.runtimes.onnxruntime import NAME

SMALL, LARGE = "small", "large"


def segment(name: str, work: float, outputs: tuple[TensorSpec, ...], following: str | None = None) -> Segment:
    """One of the two as a segment of a program, in a file of its name."""
    return Segment(name=name, models={NAME: f"{name}.onnx"}, outputs=outputs, work=work, next=following)


def alike(small: ir.Model, large: ir.Model) -> str:
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
