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
from onnx_ir.passes import common

from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.rewriting import Rewriter, clean, constant, constant_of, editable

SMALLEST = 64
"""Elements below which a constant stays as it is."""
_PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
# Their scales decide what every integer means, and engines look for them as plain constants.
_EXACT = {"QuantizeLinear", "DequantizeLinear"}
_RANGE = (float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max))


class Half(GraphPass):
    """float16 weights."""

    scheme: ClassVar[str] = "fp16"

    compute: Literal["fp32", "fp16"] = "fp32"
    """What products are computed in."""

    @property
    def code(self) -> str:
        return self.scheme if self.compute == "fp32" else f"{self.scheme}_compute_fp16"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        products = _float_products(model) if self.compute == "fp16" else set()
        halves = _Halves(model)
        changed = False
        for node in list(model.graph.all_nodes()):
            if node in products and halves.hold(node):
                _compute_in_half(model, node, halves)
                changed = True
            elif not node.domain and node.op_type not in _EXACT:
                changed |= _store_in_half(model, node, halves)
        clean(model)
        return Applied(model, changed, tuple(halves.notes))


class _Halves:
    """float16 copies of a model's float32 constants, each made once."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._made: dict[ir.Value, ir.Value | None] = {}
        self.notes: list[str] = []

    def of(self, value: ir.Value | None) -> ir.Value | None:
        """The copy of a constant; none for what is no float32 constant, or out of float16's range."""
        array = constant_of(value)
        if array is None or value is None or array.dtype != np.float32:
            return None
        if value not in self._made:
            largest = float(np.abs(array).max(initial=0))
            # Below its smallest normal number float16 holds ever fewer digits.
            if largest == 0 or _RANGE[0] <= largest <= _RANGE[1]:
                self._made[value] = constant(self._model, f"{value.name}_fp16", array.astype(np.float16))
            else:
                self._made[value] = None
                self.notes.append(f"{value.name} holds values beyond the range of float16 and stays float32.")
        return self._made[value]

    def hold(self, node: ir.Node) -> bool:
        """Whether every constant that `node` reads has a copy."""
        return all(self.of(value) is not None for value in node.inputs if constant_of(value) is not None)


def _float_products(model: ir.Model) -> set[ir.Node]:
    """The products known to be in float32; those of double or integer matrices stay what they are."""
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return {
        node
        for node in model.graph.all_nodes()
        if node.op_type in _PRODUCTS
        and not node.domain
        and any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs)
    }


def _store_in_half(model: ir.Model, node: ir.Node, halves: _Halves) -> bool:
    """Let `node` read its large constants from float16, widened; whether it has any."""
    found = False
    for index, value in enumerate(node.inputs):
        array = constant_of(value)
        if array is None or array.size < SMALLEST:
            continue
        half = halves.of(value)
        if half is not None:
            node.replace_input_with(index, _cast(model, node, half, ir.DataType.FLOAT))
            found = True
    return found


def _compute_in_half(model: ir.Model, node: ir.Node, halves: _Halves) -> None:
    """Give `node` float16 inputs, and its users the result in float32."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            half = halves.of(value) or _cast(model, node, value, ir.DataType.FLOAT16)
            node.replace_input_with(index, half)
    output = node.outputs[0]
    name, is_output = output.name, output.is_graph_output()
    cast = ir.node("Cast", [None], {"to": int(ir.DataType.FLOAT)})
    real = cast.outputs[0]
    real.shape, real.type = output.shape, output.type
    output.replace_all_uses_with(real, replace_graph_outputs=True)
    cast.replace_input_with(0, output)
    output.type = None
    if is_output:
        output.name, real.name = f"{name}_half", name
    assert node.graph is not None
    node.graph.insert_after(node, cast)


def _cast(model: ir.Model, anchor: ir.Node, value: ir.Value, to: ir.DataType) -> ir.Value:
    result: ir.Value = Rewriter(model, anchor).op("Cast", [value], {"to": int(to)})
    return result
