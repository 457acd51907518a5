"""ONNX's operators, each as a function of arrays, in MLX (https://onnx.ai/onnx/operators, opset 13 on).

A function's parameters are the operator's inputs, in order, and its attributes, by name. Where older sets
had an attribute for what is an input now, that is the same parameter. Weights of convolutions have their
channels last, as MLX wants them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import mlx.core as mx
import numpy as np

from openglm.errors import InputError
from openglm.runtimes.mlx_graph import shapes, windows
from openglm.runtimes.mlx_graph.held import Held, device, numbers, together


def _elementwise(name: str) -> Callable[..., Held]:
    """An operator of any number of inputs, two by two, by the name that both libraries have for it."""

    def apply(*given: Held) -> Held:
        library, values = together(given)
        return reduce(getattr(library, name), values)

    return apply


def _unary(name: str) -> Callable[[Held], Held]:
    def apply(x: Held) -> Held:
        library, (value,) = together([x])
        return getattr(library, name)(value)

    return apply


def _smooth(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """An operator of one input that is MLX's always."""

    def apply(x: Held) -> Held:
        return function(device(x))

    return apply


def _divided(a: Held, b: Held) -> Held:
    library, (a, b) = together([a, b])
    whole = "int" in str(a.dtype)
    if not whole:
        return library.divide(a, b)
    # Towards zero, where both libraries' own goes down.
    return library.sign(a) * library.sign(b) * (library.abs(a) // library.abs(b))


def _mod(a: Held, b: Held, *, fmod: int = 0) -> Held:
    library, (a, b) = together([a, b])
    if not fmod:
        return library.remainder(a, b)
    return library.sign(a) * library.remainder(library.abs(a), library.abs(b))


def _power(a: Held, b: Held) -> Held:
    library, (a, b) = together([a, b])
    return library.power(a, b).astype(a.dtype)


def _where(condition: Held, a: Held, b: Held) -> Held:
    library, values = together([condition, a, b])
    return library.where(*values)


def _clip(x: Held, min: Held = None, max: Held = None) -> Held:  # the operator's own names
    if min is not None:
        x = _elementwise("maximum")(x, min)
    return x if max is None else _elementwise("minimum")(x, max)


def _gelu(x: Held, *, approximate: str = "none") -> Held:
    x = device(x)
    if approximate == "tanh":
        return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + mx.erf(x * math.sqrt(0.5)))


def _elu(x: Held, *, alpha: float = 1.0) -> Held:
    x = device(x)
    return mx.where(x > 0, x, alpha * (mx.exp(mx.minimum(x, 0)) - 1))


def _leaky(x: Held, *, alpha: float = 0.01) -> Held:
    x = device(x)
    return mx.where(x < 0, alpha * x, x)


def _hard_sigmoid(x: Held, *, alpha: float = 0.2, beta: float = 0.5) -> Held:
    return mx.clip(alpha * device(x) + beta, 0, 1)


def _softplus(x: mx.array) -> Held:
    return mx.logaddexp(x, mx.zeros_like(x))


def _prelu(x: Held, slope: Held) -> Held:
    x = device(x)
    return mx.where(x < 0, device(slope) * x, x)


def _identity(x: Held, *unused: Held, **settings: Any) -> Held:
    return x


def _cast(x: Held, *, to: int, saturate: int = 1) -> Held:
    library, (x,) = together([x])
    return x.astype(getattr(library, TYPES[to]))


def _cast_like(x: Held, other: Held, *, saturate: int = 1) -> Held:
    _, (x, other) = together([x, other])
    return x.astype(other.dtype)


def _softmax(x: Held, *, axis: int = -1) -> Held:
    return mx.softmax(device(x), axis=axis, precise=True)


def _log_softmax(x: Held, *, axis: int = -1) -> Held:
    x = device(x)
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


def _matmul(a: Held, b: Held) -> Held:
    return device(a) @ device(b)


def _gemm(
    a: Held, b: Held, c: Held = None, *,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803
) -> Held:  # fmt: skip
    a, b = device(a), device(b)
    a, b = a.T if transA else a, b.T if transB else b
    return alpha * (a @ b) if c is None else mx.addmm(device(c), a, b, alpha=alpha, beta=beta)


def _small_matmul(
    x: Held, weight: mx.array, scales: mx.array, biases: mx.array, *, bits: int, group: int
) -> Held:
    """x @ weight.T, the weight being quantized along its rows."""
    return mx.quantized_matmul(device(x), weight, scales, biases, True, group_size=group, bits=bits)


def _small_gather(
    weight: mx.array, indices: Held, scales: mx.array, biases: mx.array, *, bits: int, group: int
) -> Held:
    """Rows of a quantized weight."""
    rows, scales, biases = (shapes.gather(part, indices) for part in (weight, scales, biases))
    return mx.dequantize(rows, scales, biases, group_size=group, bits=bits)


def _einsum(*given: Held, equation: str) -> Held:
    return mx.einsum(equation, *map(device, given))


def _layer_norm(
    x: Held, scale: Held, bias: Held = None, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Held:
    x, scale = device(x), device(scale)
    kept = x.shape[: axis % x.ndim]
    flat = x.reshape(*kept, -1)
    held = None if bias is None else device(bias).reshape(-1)
    return mx.fast.layer_norm(flat, scale.reshape(-1), held, epsilon).reshape(x.shape)


def _along_channels(x: mx.array, value: Held) -> Held:
    return device(value).reshape(1, -1, *[1] * (x.ndim - 2))


def _instance_norm(x: Held, scale: Held, bias: Held, *, epsilon: float = 1e-5) -> Held:
    x = device(x)
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    spread = mx.rsqrt((centred * centred).mean(axes, keepdims=True) + epsilon)
    return centred * spread * _along_channels(x, scale) + _along_channels(x, bias)


def _batch_norm(
    x: Held, scale: Held, bias: Held, mean: Held, variance: Held, *,
    epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
) -> Held:  # fmt: skip
    factor = device(scale) * mx.rsqrt(device(variance) + epsilon)
    shift = device(bias) - device(mean) * factor
    return device(x) * _along_channels(x, factor) + _along_channels(x, shift)


def _global(name: str) -> Callable[[mx.array], Held]:
    def apply(x: Held) -> Held:
        x = device(x)
        return getattr(mx, name)(x, axis=tuple(range(2, x.ndim)), keepdims=True)

    return apply


def _reduced(name: str, before: str | None = None, after: str | None = None) -> Callable[..., Held]:
    """A reduction over all axes where none are named; functions of each element before it and after."""

    def apply(x: Held, axes: Held = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Held:
        library, (x,) = together([x])
        chosen = [] if axes is None else numbers(axes)
        if not chosen and noop_with_empty_axes:
            return x
        x = getattr(library, before)(x) if before else x
        found = getattr(library, name)(x, axis=tuple(chosen) or None, keepdims=bool(keepdims))
        return getattr(library, after)(found) if after else found

    return apply


def _arg(name: str) -> Callable[..., mx.array]:
    def apply(x: Held, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Held:
        if select_last_index:
            raise InputError("The last of equal values is asked for.", "Try another engine.")
        return getattr(mx, name)(device(x), axis=axis, keepdims=bool(keepdims)).astype(mx.int64)

    return apply


def _top(x: Held, k: Held, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[mx.array, mx.array]:
    x = device(x)
    order = mx.argsort(-x if largest else x, axis=axis)
    places = mx.take(order, mx.arange(numbers(k)[0]), axis=axis)
    return mx.take_along_axis(x, places, axis=axis), places.astype(mx.int64)


def _cumulative(x: Held, axis: Held, *, exclusive: int = 0, reverse: int = 0) -> Held:
    (where,) = numbers(axis)
    return mx.cumsum(device(x), axis=where, reverse=bool(reverse), inclusive=not exclusive)


def _triangle(x: Held, k: Held = None, *, upper: int = 1) -> Held:
    library, (x,) = together([x])
    return getattr(library, "triu" if upper else "tril")(x, 0 if k is None else numbers(k)[0])


def _mean(*given: Held) -> Held:
    return _divided(_elementwise("add")(*given), np.array(len(given), np.float32))


TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool_",
    10: "float16", 11: "float32", 12: "uint32", 13: "uint64",
}  # fmt: skip
"""Both libraries' types by the numbers of `onnx.TensorProto.DataType`; MLX has no float64 on its GPU."""
OPERATORS: dict[str, Callable[..., Held | Sequence[Held]]] = {
    "Abs": _unary("abs"),
    "Add": _elementwise("add"),
    "And": _elementwise("logical_and"),
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "AveragePool": windows.average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary("ceil"),
    "Clip": _clip,
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.filled,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "Cos": _unary("cos"),
    "CumSum": _cumulative,
    "DepthToSpace": windows.depth_to_space,
    "Div": _divided,
    "Dropout": _identity,
    "Einsum": _einsum,
    "Elu": _elu,
    "Equal": _elementwise("equal"),
    "Erf": _smooth(mx.erf),
    "Exp": _unary("exp"),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": _unary("floor"),
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "Greater": _elementwise("greater"),
    "GreaterOrEqual": _elementwise("greater_equal"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _smooth(lambda x: x * mx.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _identity,
    "InstanceNormalization": _instance_norm,
    "IsNaN": _unary("isnan"),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "Less": _elementwise("less"),
    "LessOrEqual": _elementwise("less_equal"),
    "Log": _unary("log"),
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Max": _elementwise("maximum"),
    "MaxPool": windows.max_pool,
    "Mean": _mean,
    "Min": _elementwise("minimum"),
    "Mish": _smooth(lambda x: x * mx.tanh(_softplus(x))),
    "Mod": _mod,
    "Mul": _elementwise("multiply"),
    "Neg": _unary("negative"),
    "Not": _unary("logical_not"),
    "Or": _elementwise("logical_or"),
    "PRelu": _prelu,
    "Pad": windows.pad,
    "Pow": _power,
    "Range": shapes.counted,
    "Reciprocal": _smooth(mx.reciprocal),
    "ReduceL2": _reduced("sum", "square", "sqrt"),
    "ReduceMax": _reduced("max"),
    "ReduceMean": _reduced("mean"),
    "ReduceMin": _reduced("min"),
    "ReduceProd": _reduced("prod"),
    "ReduceSum": _reduced("sum"),
    "ReduceSumSquare": _reduced("sum", "square"),
    "Relu": _smooth(lambda x: mx.maximum(x, 0)),
    "Reshape": shapes.reshape,
    "Resize": windows.resize,
    "Round": _unary("round"),
    "Shape": shapes.shape,
    "Sigmoid": _smooth(mx.sigmoid),
    "Sign": _unary("sign"),
    "Sin": _unary("sin"),
    "Size": shapes.size,
    "Slice": shapes.sliced,
    "SmallGather": _small_gather,
    "SmallMatMul": _small_matmul,
    "Softmax": _softmax,
    "Softplus": _smooth(_softplus),
    "SpaceToDepth": windows.space_to_depth,
    "Split": shapes.split,
    "Sqrt": _unary("sqrt"),
    "Squeeze": shapes.squeeze,
    "Sub": _elementwise("subtract"),
    "Sum": _elementwise("add"),
    "Tanh": _unary("tanh"),
    "Tile": shapes.tile,
    "TopK": _top,
    "Transpose": shapes.transpose,
    "Trilu": _triangle,
    "Unsqueeze": shapes.unsqueeze,
    "Where": _where,
}
"""By the operator's name; "SmallGather" and "SmallMatMul" are of quantized weights, and not ONNX's."""
