"""A graph's module in operators that NCNN has, whose tensors are float32 but for what embeddings look up.

Truth is 1.0 or 0.0: what compares, chooses and casts becomes arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional

from openglm.model.modules import shapes
from openglm.model.modules.operators import OPERATORS, dtype_of
from openglm.model.modules.shapes import Held, tensor

Kind = Literal["ids", "numbers"]
LARGE = 1e38
"""Times this, any difference that counts is one or more."""
LARGEST = torch.finfo(torch.float32).max


def prepare(module: fx.GraphModule) -> list[tuple[str, Kind]]:
    """Change a module that `of_graph` made, and tell what it takes now, in order: an input's name, and
    whether embeddings look it up (whole numbers) or else (float32). One that is used both ways comes twice.
    """
    graph = module.graph
    _select(graph)
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _ARITHMETIC:
            node.target = _ARITHMETIC[node.target]
        elif node.op == "get_attr":
            held = getattr(module, str(node.target))
            if isinstance(held, torch.Tensor) and held.dtype in (torch.bool, torch.float32):
                # Nothing times infinity is no number.
                setattr(module, str(node.target), held.float().clamp(-LARGEST, LARGEST))
    takes: list[tuple[str, Kind]] = []
    for place in [node for node in graph.nodes if node.op == "placeholder"]:
        looking = [user for user in place.users if _looks_up(module, user)]
        if looking and len(looking) + len(_sizes(place)) < len(place.users):
            with graph.inserting_after(place):
                second = graph.placeholder(f"{place.target}_numbers")
            place.replace_all_uses_with(second, delete_user_cb=lambda user, ids=looking: user not in ids)
            takes += [(str(place.target), "ids"), (str(place.target), "numbers")]
        else:
            takes.append((str(place.target), "ids" if looking else "numbers"))
    module.recompile()
    return takes


def _select(graph: fx.Graph) -> None:
    """Have one operator where a slice takes one place of an axis, and the axis goes then."""
    for node in graph.nodes:
        cut = node.args[0] if node.target is shapes.squeeze else None
        if not isinstance(cut, fx.Node) or cut.target is not shapes.sliced:
            continue
        given: tuple[Any, ...] = cut.args
        x, starts, ends, axes, steps = (*given, None, None)[:5]
        one = isinstance(starts, list) and len(starts) == 1 and starts[0] >= 0 and ends == [starts[0] + 1]
        if one and steps in (None, [1]) and axes is not None and node.args[1:] == (axes,):
            with graph.inserting_before(node):
                chosen = graph.call_function(shapes.gather, (x, starts[0]), {"axis": axes[0]})
            node.replace_all_uses_with(chosen)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _looks_up(module: fx.GraphModule, user: fx.Node) -> bool:
    return user.op == "call_module" and isinstance(module.get_submodule(str(user.target)), nn.Embedding)


def _sizes(place: fx.Node) -> list[fx.Node]:
    """The users that ask for its shape alone."""
    return [user for user in place.users if user.target is shapes.shape]


def _float(value: Held) -> torch.Tensor:
    given = tensor(value)
    return given if given.is_floating_point() else given.to(torch.float32)


def _on_tensors(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., Held]:
    """The operator, of which there is arithmetic for tensors; numbers are left to Python."""

    def apply(*given: Held) -> Held:
        if not any(isinstance(item, torch.Tensor) for item in given):
            return OPERATORS[name](*given)
        return function(*map(_float, given))

    return apply


def _positive(x: torch.Tensor) -> torch.Tensor:
    return torch.clamp(x * LARGE, 0.0, 1.0)


def _equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 1.0 - _positive(torch.abs(a - b))


def _chosen(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = (torch.clamp(item, -LARGEST, LARGEST) if item.dim() == 0 else item for item in (a, b))
    return condition * a + (1.0 - condition) * b


def _as(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    if not x.is_floating_point():
        return x.to(kind)
    if kind == torch.bool:
        return _positive(torch.abs(x))
    return x if kind.is_floating_point else torch.trunc(x)


def _cast(x: Held, to: int, saturate: int = 1) -> Held:
    return _as(x, dtype_of(to)) if isinstance(x, torch.Tensor) else OPERATORS["Cast"](x, to)


def _cast_like(x: Held, other: torch.Tensor, saturate: int = 1) -> torch.Tensor:
    return _as(tensor(x, other), other.dtype)


def _gather(x: Held, indices: Held, *, axis: int = 0) -> Held:
    if not isinstance(x, torch.Tensor) or not isinstance(indices, int) or axis or x.dim() == 1:
        return shapes.gather(x, indices, axis=axis)
    return x.transpose(0, 1).select(1, indices)  # pnnx cuts what is in front as little as a batch


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return functional.prelu(x, tensor(slope, x).reshape(-1))


def _instance_norm(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5
) -> torch.Tensor:
    return functional.group_norm(x, int(x.shape[1]), tensor(scale), tensor(bias), epsilon)


_LOGIC: dict[str, Callable[..., torch.Tensor]] = {
    "And": operator.mul,
    "Equal": _equal,
    "Greater": lambda a, b: _positive(a - b),
    "GreaterOrEqual": lambda a, b: 1.0 - _positive(b - a),
    "Less": lambda a, b: _positive(b - a),
    "LessOrEqual": lambda a, b: 1.0 - _positive(a - b),
    "Not": lambda x: 1.0 - x,
    "Or": torch.maximum,
    "Where": _chosen,
}
_ARITHMETIC: dict[Any, Callable[..., Any]] = {
    **{OPERATORS[name]: _on_tensors(name, function) for name, function in _LOGIC.items()},
    OPERATORS["Cast"]: _cast,
    OPERATORS["CastLike"]: _cast_like,
    OPERATORS["Gather"]: _gather,
    OPERATORS["InstanceNormalization"]: _instance_norm,
    OPERATORS["PRelu"]: _prelu,
}
"""By the function that `of_graph` puts in an operator's place."""
