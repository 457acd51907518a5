"""ONNX's operators, each as a function of tensors, in PyTorch (https://onnx.ai/onnx/operators, opset 13 on).

A function's parameters are the operator's inputs, in order, and its attributes, by name. Where older sets
had an attribute for what is an input now, that is the same parameter.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from openglm.errors import InputError
from openglm.model.modules import shapes, windows
from openglm.model.modules.shapes import Held, Number, tensor


def dtype_of(number: int) -> torch.dtype:
    """PyTorch's type for a number of `onnx.TensorProto.DataType`."""
    return torch.from_numpy(np.zeros(0, ir.DataType(number).numpy())).dtype


def _numbers(function: Callable[..., Number], *given: Held) -> Held:
    """An operator over numbers and lists of them, broadcast."""
    length = max((len(item) for item in given if isinstance(item, list)), default=None)
    if length is None:
        return function(*given)
    spread = [item * length if isinstance(item, list) and len(item) == 1 else item for item in given]
    return [
        function(*(item[place] if isinstance(item, list) else item for item in spread))
        for place in range(length)
    ]


def _elementwise(on_tensors: Callable[..., torch.Tensor], on_numbers: Callable[..., Number]) -> Any:
    """An operator of any number of inputs, two by two."""

    def apply(*given: Held) -> Held:
        result, *others = given
        for other in others:
            first = next((item for item in (result, other) if isinstance(item, torch.Tensor)), None)
            if first is None:
                result = _numbers(on_numbers, result, other)
            else:
                result = on_tensors(tensor(result, first), tensor(other, first))
        return result

    return apply


def _unary(on_tensor: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def apply(x: torch.Tensor) -> torch.Tensor:
        return on_tensor(tensor(x))

    return apply


def _divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _quotient(a: Number, b: Number) -> Number:
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


def _mod(a: Held, b: Held, fmod: int = 0) -> Held:
    if not isinstance(a, torch.Tensor):
        return _numbers(operator.mod, a, b)
    return torch.fmod(a, tensor(b, a)) if fmod else torch.remainder(a, tensor(b, a))


def _power(a: torch.Tensor, b: Held) -> torch.Tensor:
    return torch.pow(tensor(a), b if not isinstance(b, list) else tensor(b))


def _where(condition: Held, a: Held, b: Held) -> Held:
    if not any(isinstance(item, torch.Tensor) for item in (condition, a, b)):
        return _numbers(lambda yes, one, other: one if yes else other, condition, a, b)
    first = next((item for item in (a, b) if isinstance(item, torch.Tensor)), None)
    a, b = tensor(a, first), tensor(b, first)
    return torch.where(tensor(condition), a, b)


def _clip(x: Held, min: Held = None, max: Held = None) -> Held:  # the operator's own names
    return torch.clamp(tensor(x), min, max)


def _gelu(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return functional.gelu(x, approximate=approximate)


def _leaky(x: torch.Tensor, alpha: float = 0.01) -> torch.Tensor:
    return functional.leaky_relu(x, alpha)


def _hard_sigmoid(x: torch.Tensor, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, tensor(slope, x) * x, x)


def _identity(x: Held, *unused: Held, **settings: Any) -> Held:
    return x


def _cast(x: Held, to: int, saturate: int = 1) -> Held:
    kind = dtype_of(to)
    if isinstance(x, torch.Tensor):
        return x.to(kind)
    return _numbers(lambda item: float(item) if kind.is_floating_point else item, x)


def _cast_like(x: Held, other: torch.Tensor, saturate: int = 1) -> torch.Tensor:
    return tensor(x, other).to(other.dtype)


def _softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return x.softmax(axis)


def _log_softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    return x.log_softmax(axis)


def _gemm(
    a: torch.Tensor, b: torch.Tensor, c: Held = None, *,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803
) -> torch.Tensor:  # fmt: skip
    found: torch.Tensor = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    if c is not None:
        found = found + beta * tensor(c, a)
    return found


def _einsum(*given: torch.Tensor, equation: str) -> torch.Tensor:
    return torch.einsum(equation, *given)


def _layer_norm(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None, *,
    axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1,
) -> torch.Tensor:  # fmt: skip
    return functional.layer_norm(x, x.shape[axis:], tensor(scale), bias, epsilon)


def _instance_norm(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5
) -> torch.Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _batch_norm(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, *,
    epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
) -> torch.Tensor:  # fmt: skip
    return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _global(reduce: Callable[..., torch.Tensor]) -> Any:
    def apply(x: torch.Tensor) -> torch.Tensor:
        return reduce(x, tuple(range(2, x.dim())), True)

    return apply


def _reduced(reduce: Callable[[torch.Tensor, Any, bool], torch.Tensor]) -> Any:
    """A reduction over all axes where none are named."""

    def apply(
        x: Held, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> torch.Tensor:
        given = tensor(x)
        if not axes and noop_with_empty_axes:
            return given
        return reduce(given, tuple(axes or range(given.dim())), bool(keepdims))

    return apply


def _product(x: torch.Tensor, axes: tuple[int, ...], keep: bool) -> torch.Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(find: Callable[..., torch.Tensor]) -> Any:
    def apply(
        x: torch.Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
    ) -> torch.Tensor:
        if select_last_index:
            raise InputError("The last of equal values is asked for.", "Give the model as a PyTorch module.")
        return find(x, axis, bool(keepdims))

    return apply


def _top(
    x: torch.Tensor,
    k: Held,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    values, places = torch.topk(x, k[0] if isinstance(k, list) else k, axis, bool(largest), bool(sorted))
    return values, places


def _cumulative(x: torch.Tensor, axis: Held, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    where = axis[0] if isinstance(axis, list) else axis
    turned = x.flip(where) if reverse else x
    found = turned.cumsum(where) - (turned if exclusive else 0)
    return found.flip(where) if reverse else found


def _triangle(x: torch.Tensor, k: Held = 0, *, upper: int = 1) -> torch.Tensor:
    return x.triu(k) if upper else x.tril(k)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _elementwise(torch.add, operator.add),
    "And": _elementwise(torch.logical_and, lambda a, b: a and b),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": windows.average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": shapes.concat,
    "ConstantOfShape": shapes.filled,
    "Conv": windows.conv,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulative,
    "DepthToSpace": windows.depth_to_space,
    "Div": _elementwise(_divided, _quotient),
    "Dropout": _identity,
    "Einsum": _einsum,
    "Elu": functional.elu,
    "Equal": _elementwise(torch.eq, operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": _unary(torch.floor),
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _elementwise(torch.gt, operator.gt),
    "GreaterOrEqual": _elementwise(torch.ge, operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _identity,
    "InstanceNormalization": _instance_norm,
    "IsNaN": _unary(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "Less": _elementwise(torch.lt, operator.lt),
    "LessOrEqual": _elementwise(torch.le, operator.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "MatMul": operator.matmul,
    "Max": _elementwise(torch.maximum, max),
    "MaxPool": windows.max_pool,
    "Mean": lambda *given: sum(given) / len(given),
    "Min": _elementwise(torch.minimum, min),
    "Mish": _unary(functional.mish),
    "Mod": _mod,
    "Mul": _elementwise(torch.mul, operator.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _elementwise(torch.logical_or, lambda a, b: a or b),
    "PRelu": _prelu,
    "Pad": windows.pad,
    "Pow": _power,
    "Range": shapes.counted,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": shapes.reshape,
    "Resize": windows.resize,
    "Round": _unary(torch.round),
    "Shape": shapes.shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": shapes.size,
    "Slice": shapes.sliced,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "SpaceToDepth": windows.space_to_depth,
    "Split": shapes.split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": _elementwise(torch.sub, operator.sub),
    "Sum": _elementwise(torch.add, operator.add),
    "Tanh": _unary(torch.tanh),
    "Tile": shapes.tile,
    "TopK": _top,
    "Transpose": shapes.transpose,
    "Trilu": _triangle,
    "Unsqueeze": shapes.unsqueeze,
    "Where": _where,
}
"""By the operator's name."""
