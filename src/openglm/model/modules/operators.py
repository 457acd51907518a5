"""ONNX's operators, each as a function of tensors, in PyTorch (https://onnx.ai/onnx/operators, opset 13 on).

A function's parameters are the operator's inputs, in order, and its attributes, by name. Where older sets
had an attribute for what is an input now, that is the same parameter.

Sizes stay Python's numbers: what is no tensor is a number (a tensor without axes) or a list of them (one
axis), so that shapes of any size can be followed when the module is exported.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from openglm.errors import InputError
from openglm.model.modules import windows

Number = Any
"""An int, a float or a bool; a size of any value while it is exported."""
Held = Any
"""A tensor, a number or a list of numbers."""


def dtype_of(number: int) -> torch.dtype:
    """PyTorch's type for a number of `onnx.TensorProto.DataType`."""
    return torch.from_numpy(np.zeros(0, ir.DataType(number).numpy())).dtype


def tensor(value: Held, like: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor of what may be numbers, of the type and on the device of another."""
    if isinstance(value, torch.Tensor):
        return value
    if like is None:
        return torch.tensor(value)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def item(given: Sequence[Any], place: int) -> Any:
    """One of several outputs."""
    return given[place]


def _sizes(shape: Held) -> list[Number]:
    return list(shape.tolist()) if isinstance(shape, torch.Tensor) else list(shape)


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


def _elu(x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    return functional.elu(x, alpha)


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


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


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


def _shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> list[Number]:
    return list(x.shape)[start:end]


def _size(x: torch.Tensor) -> Number:
    return math.prod(x.shape)


def _reshape(x: Held, shape: Held, *, allowzero: int = 0) -> Held:
    if not isinstance(x, torch.Tensor):
        flat = x if isinstance(x, list) else [x]
        return flat if len(shape) else flat[0]
    wanted = _sizes(shape)
    if not allowzero:
        wanted = [
            x.shape[place] if isinstance(size, int) and size == 0 else size
            for place, size in enumerate(wanted)
        ]
    return x.reshape(wanted)


def _flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    axis = axis % x.dim() if axis < 0 else axis
    rows = math.prod(x.shape[:axis]) if axis else 1
    return x.reshape(rows, math.prod(x.shape[axis:]))


def _transpose(x: torch.Tensor, *, perm: Sequence[int] | None = None) -> torch.Tensor:
    return x.permute(list(perm or reversed(range(x.dim()))))


def _squeeze(x: Held, axes: Sequence[int] | None = None) -> Held:
    if not isinstance(x, torch.Tensor):
        return x[0] if isinstance(x, list) else x
    return x.squeeze(tuple(axes)) if axes else x.squeeze()


def _unsqueeze(x: Held, axes: Sequence[int]) -> Held:
    if not isinstance(x, torch.Tensor):
        return [x]
    count = x.dim() + len(axes)
    for axis in sorted(axis % count for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _concat(*given: Held, axis: int) -> Held:
    first = next((item for item in given if isinstance(item, torch.Tensor)), None)
    if first is None:
        return [number for item in given for number in item]
    return torch.cat([tensor(item, first) for item in given], axis)


def _split(
    x: torch.Tensor, split: Sequence[int] | None = None, *,
    axis: int = 0, num_outputs: int | None = None, outputs: int = 0,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    size = x.shape[axis]
    return torch.split(x, list(split) if split else -(-size // (num_outputs or outputs)), axis)


def _slice(x: Held, starts: Held, ends: Held, axes: Held = None, steps: Held = None) -> Held:
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        step = steps[place] if steps else 1
        end = min(end, sys.maxsize) if isinstance(end, int) else end
        if not isinstance(x, torch.Tensor):
            return x[start : end if end > -sys.maxsize else None : step]
        if step < 0:
            size = x.shape[axis]
            taken = list(range(size))[start : end if end >= -size else None : step]
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
        else:
            x = x[(*[slice(None)] * (axis % x.dim()), slice(start, end, step))]
    return x


def _gather(x: Held, indices: Held, *, axis: int = 0) -> Held:
    if not isinstance(x, torch.Tensor):
        if isinstance(indices, torch.Tensor):
            indices = indices.tolist()
        return [x[place] for place in indices] if isinstance(indices, list) else x[indices]
    if isinstance(indices, int):
        return x.select(axis, indices)
    places = tensor(indices).to(x.device)
    places = torch.where(places < 0, places + x.shape[axis], places)
    axis %= x.dim()
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _gather_elements(x: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _expand(x: Held, shape: Held) -> torch.Tensor:
    given = tensor(x)
    shape = _sizes(shape)
    own = [1] * (len(shape) - given.dim()) + list(given.shape)
    wide = [1] * (len(own) - len(shape)) + shape
    return given.expand(
        [mine if isinstance(size, int) and size == 1 else size for mine, size in zip(own, wide, strict=True)]
    )


def _tile(x: torch.Tensor, repeats: Sequence[Number]) -> torch.Tensor:
    return x.repeat(list(repeats))


def _filled(shape: Held, *, value: torch.Tensor | None = None) -> torch.Tensor:
    sizes = _sizes(shape)
    return torch.zeros(sizes) if value is None else torch.full(sizes, value.item(), dtype=value.dtype)


def _range(start: Number, limit: Number, delta: Number) -> torch.Tensor:
    return torch.arange(start, limit, delta)


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
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": windows.conv,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulative,
    "DepthToSpace": windows.depth_to_space,
    "Div": _elementwise(_divided, _quotient),
    "Dropout": _identity,
    "Einsum": _einsum,
    "Elu": _elu,
    "Equal": _elementwise(torch.eq, operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
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
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "Less": _elementwise(torch.lt, operator.lt),
    "LessOrEqual": _elementwise(torch.le, operator.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
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
    "Range": _range,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": windows.resize,
    "Round": _unary(torch.round),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "SpaceToDepth": windows.space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub, operator.sub),
    "Sum": _elementwise(torch.add, operator.add),
    "Tanh": _unary(torch.tanh),
    "Tile": _tile,
    "TopK": _top,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""By the operator's name."""
