"""Half precision: weights as float16, half the size.

On a CPU without half-precision arithmetic the weights are widened once, when the model is loaded,
and all runs at its float32 speed (`compute="fp32"`). With `compute="fp16"` the products themselves
are in half precision, for GPUs, NPUs and CPUs since ARMv8.2; operators that sum many values or
take exponents stay in float32.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from openglm.passes.contract import Applied, Context, PassConfig
from openglm.passes.rewriting import Rewriter, clean, constant_of

SMALLEST = 64
"""Elements below which a constant stays as it is."""
_HALF_PRODUCTS = {"MatMul": (0, 1), "Gemm": (0, 1, 2), "Conv": (0, 1, 2), "ConvTranspose": (0, 1, 2)}
_TOP = float(np.finfo(np.float16).max)


class Half(PassConfig):
    """float16 weights."""

    scheme: ClassVar[str] = "fp16"

    compute: Literal["fp32", "fp16"] = "fp32"
    """What products are computed in."""

    @property
    def code(self) -> str:
        return self.scheme if self.compute == "fp32" else f"{self.scheme}_compute_fp16"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = graph.clone()
        beyond: list[str] = []
        halves: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph.all_nodes()):
            rewriter = Rewriter(model, node)
            in_half = self.compute == "fp16" and not node.domain and node.op_type in _HALF_PRODUCTS
            for index, value in enumerate(node.inputs):
                array = constant_of(value)
                if value is None:
                    continue
                if array is not None and array.dtype == np.float32 and (array.size >= SMALLEST or in_half):
                    if np.abs(array).max(initial=0) > _TOP:
                        beyond.append(str(value.name))
                        continue
                    if value not in halves:
                        halves[value] = rewriter.constant(f"{value.name}_fp16", array.astype(np.float16))
                    half = halves[value]
                    node.replace_input_with(index, half if in_half else _cast(rewriter, half, ir.DataType.FLOAT))
                elif in_half and array is None:
                    node.replace_input_with(index, _cast(rewriter, value, ir.DataType.FLOAT16))
            if in_half:
                _widen(model, node)
        clean(model)
        notes = tuple(f"{name} holds values beyond the range of float16 and stays float32." for name in beyond)
        return Applied(model, bool(halves), notes)


def _cast(rewriter: Rewriter, value: ir.Value, to: ir.DataType) -> ir.Value:
    result: ir.Value = rewriter.op("Cast", [value], {"to": int(to)})
    return result


def _widen(model: ir.Model, node: ir.Node) -> None:
    """Turn the half-precision result of `node` back into float32 for all its users."""
    output = node.outputs[0]
    cast = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)})
    assert node.graph is not None
    node.graph.insert_after(node, cast)
    new = cast.outputs[0]
    new.shape, new.dtype = output.shape, output.dtype
    name, is_output = output.name, output.is_graph_output()
    for user, index in list(output.uses()):
        if user is not cast:
            user.replace_input_with(index, new)
    if is_output:
        outputs = model.graph.outputs
        outputs[list(outputs).index(output)] = new
        output.name, new.name = f"{name}_half", name
