"""Convolutions, products of matrices, and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from openglm.model.tflite.reading import Operation
from openglm.model.tflite.translation import Translation, UnsupportedError

_SAME = 0


def activated(t: Translation, value: ir.Value, options: Any) -> ir.Value:
    """A value after the activation that is part of its operator."""
    match options.fusedActivationFunction:
        case 0:
            return value
        case 1:
            return t.node("Relu", value)
        case 2:
            return t.node("Clip", value, t.make(-1, "float32"), t.make(1, "float32"))
        case 3:
            return t.node("Clip", value, t.make(0, "float32"), t.make(6, "float32"))
        case 4:
            return t.node("Tanh", value)
    raise UnsupportedError("its activation has no counterpart")


def _windows(
    t: Translation, place: int, options: Any, kernel: Sequence[int], dilations: Sequence[int] = (1, 1)
) -> dict[str, Any]:
    """Kernel, strides and padding. "Same" padding puts the odd row and column at the end."""
    strides = [options.strideH, options.strideW]
    found: dict[str, Any] = {"kernel_shape": list(kernel), "strides": strides}
    if tuple(dilations) != (1, 1):
        found["dilations"] = list(dilations)
    if options.padding != _SAME:
        return found
    starts, ends = [], []
    for size, each, stride, dilation in zip(t.sizes(place)[1:3], kernel, strides, dilations, strict=True):
        if size is None:
            return {**found, "auto_pad": "SAME_UPPER"}
        total = max((-(-size // stride) - 1) * stride + (each - 1) * dilation + 1 - size, 0)
        starts.append(total // 2)
        ends.append(total - total // 2)
    return {**found, "pads": starts + ends} if any(starts + ends) else found


def _filter(t: Translation, place: int) -> list[int]:
    if t.constant(place) is None:
        raise UnsupportedError("its filter is computed")
    return list(t.tensor(place).shape)


def _bias(t: Translation, operation: Operation, index: int) -> ir.Value | None:
    given = operation.inputs[index:]
    return t.real(given[0]) if given and given[0] >= 0 else None


def _conv(t: Translation, operation: Operation) -> None:
    x, w = operation.inputs[:2]
    options, depthwise = operation.options, operation.name == "DEPTHWISE_CONV_2D"
    shape, channels = _filter(t, w), t.tensor(x).shape[3]
    made = t.node(
        "Conv",
        t.real(x, first=True),
        t.weight(w, (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)),
        _bias(t, operation, 2),
        group=channels if depthwise else channels // shape[3],
        **_windows(t, x, options, shape[1:3], (options.dilationHFactor, options.dilationWFactor)),
    )
    t.put(operation.outputs[0], activated(t, made, options), first=True)


def _conv_transpose(t: Translation, operation: Operation) -> None:
    _, w, x = operation.inputs[:3]
    options, kernel = operation.options, _filter(t, w)[1:3]
    strides = [options.strideH, options.strideW]
    starts, ends, extra = [], [], []
    for size, out, each, stride in zip(
        t.sizes(x)[1:3], t.tensor(operation.outputs[0]).shape[1:3], kernel, strides, strict=True
    ):
        if size is None:
            raise UnsupportedError("its size is open")
        total = max((size - 1) * stride + each - out, 0) if options.padding == _SAME else 0
        starts.append(total // 2)
        ends.append(total - total // 2)
        extra.append(max(out - ((size - 1) * stride + each - total), 0))
    made = t.node(
        "ConvTranspose",
        t.real(x, first=True),
        t.weight(w, (3, 0, 1, 2)),
        _bias(t, operation, 3),
        kernel_shape=kernel,
        strides=strides,
        pads=starts + ends,
        output_padding=extra,
    )
    t.put(operation.outputs[0], activated(t, made, options), first=True)


def _pool(kind: str) -> Any:
    def translate(t: Translation, operation: Operation) -> None:
        options, x = operation.options, operation.inputs[0]
        windows = _windows(t, x, options, (options.filterHeight, options.filterWidth))
        made = t.node(kind, t.real(x, first=True), **windows)
        t.put(operation.outputs[0], activated(t, made, options), first=True)

    return translate


def _fully_connected(t: Translation, operation: Operation) -> None:
    x, w = operation.inputs[:2]
    options = operation.options
    if options.weightsFormat:
        raise UnsupportedError("its weights are shuffled")
    width, constant = t.tensor(w).shape[1], t.constant(w) is not None
    value, bias = t.real(x), _bias(t, operation, 2)
    flat = t.rank(x) == 2 and t.tensor(x).shape[1] == width
    if not flat and not options.keepNumDims:
        value, flat = t.node("Reshape", value, t.make([-1, width])), True
    if flat:
        made = t.node("Gemm", value, t.real(w), bias, transB=1)
    else:
        weight = t.weight(w, (1, 0)) if constant else t.node("Transpose", t.real(w), perm=(1, 0))
        made = t.node("MatMul", value, weight)
        made = made if bias is None else t.node("Add", made, bias)
    t.put(operation.outputs[0], activated(t, made, options))


def _batch_matmul(t: Translation, operation: Operation) -> None:
    def operand(place: int, swapped: bool) -> ir.Value:
        order = list(range(t.rank(place)))
        if swapped:
            order[-2:] = reversed(order[-2:])
        if t.constant(place) is not None:
            return t.weight(place, order)
        return t.node("Transpose", t.real(place), perm=order) if swapped else t.real(place)

    a, b = operation.inputs
    made = t.node("MatMul", operand(a, operation.options.adjX), operand(b, operation.options.adjY))
    t.put(operation.outputs[0], made)


TABLE = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "TRANSPOSE_CONV": _conv_transpose,
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "MAX_POOL_2D": _pool("MaxPool"),
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
}
