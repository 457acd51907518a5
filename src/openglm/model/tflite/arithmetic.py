"""Operators element by element, reductions, and what is made of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from openglm.model.tflite.products import activated
from openglm.model.tflite.reading import Operation
from openglm.model.tflite.translation import FIRST, Translation, UnsupportedError

_Made = Callable[..., ir.Value]


def _elementwise(make: _Made) -> Any:
    """An operator on tensors that are broadcast, in whichever layout they lie."""

    def translate(t: Translation, operation: Operation) -> None:
        first = t.first(*operation.inputs)
        given = [t.real(place, first) for place in operation.inputs]
        made = make(t, operation, *given)
        if hasattr(operation.options, "fusedActivationFunction"):
            made = activated(t, made, operation.options)
        t.put(operation.outputs[0], made, first)

    return translate


def _simple(kind: str, **attributes: Any) -> Any:
    return _elementwise(lambda t, operation, *given: t.node(kind, *given, **attributes))


def _whole(t: Translation, operation: Operation) -> bool:
    return t.type(operation.inputs[0]) in (ir.DataType.INT32, ir.DataType.INT64)


def _clip(low: float, high: float) -> Any:
    def make(t: Translation, operation: Operation, x: ir.Value) -> ir.Value:
        return t.node("Clip", x, t.make(low, np.float32), t.make(high, np.float32))

    return _elementwise(make)


def _squared_difference(t: Translation, operation: Operation, a: ir.Value, b: ir.Value) -> ir.Value:
    gap = t.node("Sub", a, b)
    return t.node("Mul", gap, gap)


def _floor_div(t: Translation, operation: Operation, a: ir.Value, b: ir.Value) -> ir.Value:
    if not _whole(t, operation):
        return t.node("Floor", t.node("Div", a, b))
    return t.node("Div", t.node("Sub", a, t.node("Mod", a, b)), b)  # Div alone rounds to zero


def _floor_mod(t: Translation, operation: Operation, a: ir.Value, b: ir.Value) -> ir.Value:
    if _whole(t, operation):
        return t.node("Mod", a, b)
    return t.node("Sub", a, t.node("Mul", b, t.node("Floor", t.node("Div", a, b))))


def _rsqrt(t: Translation, operation: Operation, x: ir.Value) -> ir.Value:
    return t.node("Reciprocal", t.node("Sqrt", x))


def _gelu(t: Translation, operation: Operation, x: ir.Value) -> ir.Value:
    return t.node("Gelu", x, approximate="tanh" if operation.options.approximate else "none")


def _leaky(t: Translation, operation: Operation, x: ir.Value) -> ir.Value:
    return t.node("LeakyRelu", x, alpha=float(operation.options.alpha))


def _cast(t: Translation, operation: Operation, x: ir.Value) -> ir.Value:
    return t.cast(x, t.type(operation.outputs[0]))


def _dequantize(t: Translation, operation: Operation) -> None:
    (x,), (out,) = operation.inputs, operation.outputs
    if t.constant(x) is not None:
        t.hand_on(x, out)
        return
    first = t.first(x)
    held = t.tensor(x).dtype == "float16"
    t.put(out, t.cast(t.real(x, first), ir.DataType.FLOAT) if held else t.real(x, first), first)


def _softmax(kind: str) -> Any:
    def translate(t: Translation, operation: Operation) -> None:
        x = t.real(operation.inputs[0])
        beta = getattr(operation.options, "beta", 1.0)
        if beta != 1.0:
            x = t.node("Mul", x, t.make(beta, np.float32))
        t.put(operation.outputs[0], t.node(kind, x, axis=-1))

    return translate


def _reduce(kind: str) -> Any:
    def translate(t: Translation, operation: Operation) -> None:
        x, axes = operation.inputs[0], sorted({axis % t.rank(operation.inputs[0]) for axis in
                                               t.integers(operation.inputs[1])})  # fmt: skip
        keep, out = bool(operation.options.keepDims), operation.outputs[0]
        first = t.first(x) and axes == [1, 2]
        value = t.real(x, first)
        if t.type(x) == ir.DataType.BOOL:
            value = t.cast(value, ir.DataType.INT32)
        if kind == "ReduceMean" and first:
            made = t.node("GlobalAveragePool", value)
            made = made if keep else t.node("Flatten", made)
        else:
            places = [2, 3] if first else axes
            made = t.node(kind, value, t.make(places), keepdims=int(keep))
        if t.type(x) == ir.DataType.BOOL:
            made = t.cast(made, ir.DataType.BOOL)
        t.put(out, made, first and keep)

    return translate


def _arg(kind: str) -> Any:
    def translate(t: Translation, operation: Operation) -> None:
        (axis,) = t.integers(operation.inputs[1])
        made = t.node(kind, t.real(operation.inputs[0]), axis=axis, keepdims=0)
        t.put(operation.outputs[0], t.cast(made, t.type(operation.outputs[0])))

    return translate


def _top_k(t: Translation, operation: Operation) -> None:
    (k,) = t.integers(operation.inputs[1])
    values, places = t.nodes("TopK", 2, t.real(operation.inputs[0]), t.make([k]))
    t.put(operation.outputs[0], values)
    t.put(operation.outputs[1], t.cast(places, t.type(operation.outputs[1])))


def _cumsum(t: Translation, operation: Operation) -> None:
    options = operation.options
    settings = {"exclusive": int(options.exclusive), "reverse": int(options.reverse)}
    (axis,) = t.integers(operation.inputs[1])
    t.put(operation.outputs[0], t.node("CumSum", t.real(operation.inputs[0]), t.make(axis), **settings))


def _l2_normalization(t: Translation, operation: Operation) -> None:
    x = t.real(operation.inputs[0])
    square = t.node("ReduceSum", t.node("Mul", x, x), t.make([-1]), keepdims=1)
    length = t.node("Sqrt", t.node("Max", square, t.make(1e-12, np.float32)))
    t.put(operation.outputs[0], activated(t, t.node("Div", x, length), operation.options))


def _resize(t: Translation, operation: Operation) -> None:
    options = operation.options
    linear = operation.name == "RESIZE_BILINEAR"
    mode = (
        "align_corners"
        if options.alignCorners
        else "half_pixel"
        if options.halfPixelCenters
        else "asymmetric"
    )
    rounding = {} if linear else {"nearest_mode": "floor" if mode == "asymmetric" else "round_prefer_ceil"}
    x, sizes = t.real(operation.inputs[0], first=True), t.make(t.integers(operation.inputs[1]))
    made = t.node(
        "Resize", x, None, None, sizes,
        axes=[2, 3], mode="linear" if linear else "nearest", coordinate_transformation_mode=mode, **rounding,
    )  # fmt: skip
    t.put(operation.outputs[0], made, first=True)


def _select(t: Translation, operation: Operation) -> None:
    condition, a, b = operation.inputs
    if operation.name == "SELECT" and t.rank(condition) not in (0, t.rank(a)):
        raise UnsupportedError("it selects whole rows")
    first = t.first(condition, a, b)
    made = t.node("Where", *(t.real(place, first) for place in (condition, a, b)))
    t.put(operation.outputs[0], made, first)


def _concatenation(t: Translation, operation: Operation) -> None:
    axis, first = operation.options.axis % t.rank(operation.outputs[0]), t.first(*operation.inputs)
    if first and any(t.constant(place) is not None for place in operation.inputs):
        first = False  # a constant would be broadcast
    values = [t.real(place, first) for place in operation.inputs]
    made = t.node("Concat", *values, axis=FIRST.index(axis) if first else axis)
    t.put(operation.outputs[0], activated(t, made, operation.options), first)


TABLE = {
    "ADD": _simple("Add"),
    "SUB": _simple("Sub"),
    "MUL": _simple("Mul"),
    "DIV": _simple("Div"),
    "POW": _simple("Pow"),
    "ADD_N": _simple("Sum"),
    "MAXIMUM": _simple("Max"),
    "MINIMUM": _simple("Min"),
    "ABS": _simple("Abs"),
    "NEG": _simple("Neg"),
    "EXP": _simple("Exp"),
    "LOG": _simple("Log"),
    "SQRT": _simple("Sqrt"),
    "RSQRT": _elementwise(_rsqrt),
    "SIN": _simple("Sin"),
    "COS": _simple("Cos"),
    "FLOOR": _simple("Floor"),
    "CEIL": _simple("Ceil"),
    "ROUND": _simple("Round"),
    "SIGN": _simple("Sign"),
    "SQUARE": _elementwise(lambda t, operation, x: t.node("Mul", x, x)),
    "SQUARED_DIFFERENCE": _elementwise(_squared_difference),
    "FLOOR_DIV": _elementwise(_floor_div),
    "FLOOR_MOD": _elementwise(_floor_mod),
    "LOGISTIC": _simple("Sigmoid"),
    "TANH": _simple("Tanh"),
    "RELU": _simple("Relu"),
    "RELU6": _clip(0, 6),
    "RELU_N1_TO_1": _clip(-1, 1),
    "RELU_0_TO_1": _clip(0, 1),
    "LEAKY_RELU": _elementwise(_leaky),
    "PRELU": _simple("PRelu"),
    "ELU": _simple("Elu"),
    "HARD_SWISH": _simple("HardSwish"),
    "GELU": _elementwise(_gelu),
    "EQUAL": _simple("Equal"),
    "NOT_EQUAL": _elementwise(lambda t, operation, a, b: t.node("Not", t.node("Equal", a, b))),
    "LESS": _simple("Less"),
    "LESS_EQUAL": _simple("LessOrEqual"),
    "GREATER": _simple("Greater"),
    "GREATER_EQUAL": _simple("GreaterOrEqual"),
    "LOGICAL_AND": _simple("And"),
    "LOGICAL_OR": _simple("Or"),
    "LOGICAL_NOT": _simple("Not"),
    "CAST": _elementwise(_cast),
    "QUANTIZE": _simple("Identity"),
    "DEQUANTIZE": _dequantize,
    "SELECT": _select,
    "SELECT_V2": _select,
    "CONCATENATION": _concatenation,
    "SOFTMAX": _softmax("Softmax"),
    "LOG_SOFTMAX": _softmax("LogSoftmax"),
    "MEAN": _reduce("ReduceMean"),
    "SUM": _reduce("ReduceSum"),
    "REDUCE_MAX": _reduce("ReduceMax"),
    "REDUCE_MIN": _reduce("ReduceMin"),
    "REDUCE_PROD": _reduce("ReduceProd"),
    "REDUCE_ANY": _reduce("ReduceMax"),
    "REDUCE_ALL": _reduce("ReduceMin"),
    "ARG_MAX": _arg("ArgMax"),
    "ARG_MIN": _arg("ArgMin"),
    "TOPK_V2": _top_k,
    "CUMSUM": _cumsum,
    "L2_NORMALIZATION": _l2_normalization,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
}
