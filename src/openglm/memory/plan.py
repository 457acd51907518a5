"""The plan of a model's tensors in one arena: every address is known before the model runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict

from openglm.errors import InputError
from openglm.memory import greedy
from openglm.memory.allocation import allocate
from openglm.memory.lifetime import Lifetime, lifetimes
from openglm.memory.order import best
from openglm.memory.problem import Span, lower_bound, top
from openglm.model.analysis.shapes import Shapes, resolve
from openglm.model.auto import AutoModel
from openglm.model.model import Model

Order = Literal["given", "best"]
SECOND = " (second)"
"""Ends the name of the other of two buffers, where inputs and outputs are doubled."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Placement(_Part):
    """Where one piece of storage lies, and when."""

    name: str
    offset: int
    """Bytes from the beginning of the arena."""
    nbytes: int
    first: int
    """The step that makes it."""
    last: int
    """The last step that needs it."""
    values: tuple[str, ...]
    """The tensors that lie in it, one after the other or as views; none for an operator's scratch."""


class Plan(_Part):
    """One arena. Steps are the graph's nodes in `steps`' order, each named by its first output."""

    name: str
    alignment: int
    """All offsets are multiples of it, in bytes."""
    guard: int = 0
    """Bytes left free after each piece of storage."""
    arena_bytes: int
    lower_bound: int
    """The most bytes alive at any step, each piece rounded up to the alignment: no plan needs less in this
    order."""
    greedy_bytes: int
    """What the largest-first planner of TensorFlow Lite makes of the same tensors."""
    given_bound: int
    """The lower bound in the graph's own order."""
    optimal: bool
    """Whether it is proven that no plan in this order needs less."""
    in_place: bool
    double_buffer: bool
    reordered: bool
    seconds: float
    """Spent on planning."""
    steps: tuple[str, ...]
    placements: tuple[Placement, ...]


def plan(
    model: Model | Shapes | str | PathLike[str],
    *,
    dims: Mapping[str, int] | None = None,
    order: Order = "given",
    align: int = 64,
    arena_bytes: int | None = None,
    seconds: float = 10.0,
    in_place: bool = True,
    double_buffer: bool = False,
    guard: int = 0,
) -> Plan:
    """Plan the tensors of `model` (constants apart: they stay where the file has them).

    `model` is what `AutoModel.from_pretrained` takes, a `Model`, or the resolved shapes of a graph.
    `dims` sets symbolic dimensions, as for `fit`. `order` "best" looks for an order of the operators that
    needs less. With `arena_bytes` the first plan of no more is taken; else the lowest found within
    `seconds`. With `in_place` an elementwise operator may write over its input. With `double_buffer`
    each input and output has two places of its own, so that the next frame can be written and the last one
    read while one is computed. Raises `InputError` for tensors whose size is not known, and where
    `arena_bytes` is too little.
    """
    begun = time.monotonic()
    _check_settings(align, seconds)
    if isinstance(model, Shapes):
        shapes, name = model, model.graph.name or "model"
    else:
        loaded = AutoModel.from_pretrained(model)
        shapes, name = resolve(loaded.graph, dims), loaded.name
    check_known(shapes)
    nodes = tuple(shapes.graph)

    def tensors_in(chosen: Sequence[ir.Node]) -> list[Lifetime]:
        found = lifetimes(shapes, order=chosen, in_place=in_place, over_inputs=not double_buffer)
        return doubled(found, shapes.graph) if double_buffer else found

    def placed(chosen: Sequence[ir.Node]) -> Plan:
        return place(
            name,
            tensors_in(chosen),
            [step_name(node) for node in chosen],
            align=align,
            guard=guard,
            arena_bytes=arena_bytes,
            seconds=max(seconds - (time.monotonic() - begun), 0.0),
        )

    given_bound = lower_bound(spans(tensors_in(nodes), align, guard))
    chosen = nodes if order == "given" else best(shapes, in_place=in_place, seconds=seconds / 2).nodes
    made = placed(chosen)
    if chosen != nodes and made.arena_bytes >= given_bound:
        chosen, made = min(((chosen, made), (nodes, placed(nodes))), key=lambda pair: pair[1].arena_bytes)
    return made.model_copy(
        update={
            "given_bound": given_bound,
            "in_place": in_place,
            "double_buffer": double_buffer,
            "reordered": chosen != nodes,
            "seconds": round(time.monotonic() - begun, 4),
        }
    )


def place(
    name: str,
    tensors: Sequence[Lifetime],
    steps: Sequence[str],
    *,
    align: int = 64,
    guard: int = 0,
    arena_bytes: int | None = None,
    seconds: float = 10.0,
) -> Plan:
    """Plan tensors whose lifetimes are known. Raises `InputError` where `arena_bytes` is too little."""
    begun = time.monotonic()
    _check_settings(align, seconds)
    rectangles = spans(tensors, align, guard)
    bound = lower_bound(rectangles)
    if arena_bytes is not None:
        _check_room(tensors, rectangles, steps, bound, arena_bytes)
    found = allocate(rectangles, seconds=seconds, enough=arena_bytes)
    if arena_bytes is not None and found.top > arena_bytes:
        raise InputError(
            f"The lowest plan found in {seconds:.3g} s needs {found.top:,} bytes, and {arena_bytes:,} are "
            f"asked for; no plan needs less than {found.least:,}.",
            "Give more memory, or more time."
            if found.least <= arena_bytes
            else "Give more memory, a smaller shape, or let the operators be reordered.",
        )
    return Plan(
        name=name,
        alignment=align,
        guard=guard,
        arena_bytes=found.top,
        lower_bound=bound,
        greedy_bytes=top(rectangles, greedy.by_size(rectangles)),
        given_bound=bound,
        optimal=found.optimal,
        in_place=False,
        double_buffer=False,
        reordered=False,
        seconds=round(time.monotonic() - begun, 4),
        steps=tuple(steps),
        placements=tuple(
            Placement(
                name=tensor.name,
                offset=offset,
                nbytes=tensor.nbytes,
                first=tensor.first,
                last=tensor.last,
                values=tensor.values,
            )
            for tensor, offset in zip(tensors, found.offsets, strict=True)
        ),
    )


def spans(tensors: Sequence[Lifetime], align: int, guard: int = 0) -> list[Span]:
    """The rectangles to place: sizes with their guards, rounded up to the alignment."""
    return [
        Span(
            tensor.first,
            tensor.last + 1,
            -(-(tensor.nbytes + guard) // align) * align if tensor.nbytes else 0,
        )
        for tensor in tensors
    ]


def doubled(tensors: Sequence[Lifetime], graph: ir.Graph) -> list[Lifetime]:
    """The storage with that of the graph's inputs and outputs twice, all the time.

    While one frame is computed in the first, the next is written to the second, and the last read from it;
    then they change places. Raises `InputError` where an output is an input itself: the next frame would
    be written over what is still read.
    """
    inputs, outputs = ({value.name for value in side} for side in (graph.inputs, graph.outputs))
    found: list[Lifetime] = []
    for tensor in tensors:
        given, left = inputs.intersection(tensor.values), outputs.intersection(tensor.values)
        if given and left:
            raise InputError(
                f"The output '{min(map(str, left))}' is the input '{min(map(str, given))}' itself: they "
                "cannot be doubled.",
                "Leave double buffers out.",
            )
        if not given and not left:
            found.append(tensor)
            continue
        whole = replace(tensor, first=0, last=max(len(graph) - 1, 0))
        found += [whole, replace(whole, name=tensor.name + SECOND)]
    return found


def step_name(node: ir.Node) -> str:
    """What a node is known by in a plan: its first output."""
    return next((value.name for value in node.outputs if value.name), node.name or node.op_type)


def check_known(shapes: Shapes) -> None:
    """Raise `InputError` where a tensor's size cannot be known before the model runs."""
    if not shapes.unknown:
        return
    some = ", ".join(shapes.unknown[:3]) + (" and more" if len(shapes.unknown) > 3 else "")
    makers = {
        node.op_type for node in shapes.graph.all_nodes() for v in node.outputs if v.name in shapes.unknown
    }
    if shapes.unknown_operators:
        why = f"it has operators that are not known: {', '.join(shapes.unknown_operators)}"
    else:
        why = f"data decides what {', '.join(sorted(makers)[:3]) or 'its inputs'} give"
    raise InputError(
        f"{len(shapes.unknown)} tensors of the model have no size that is known beforehand ({some}): {why}.",
        "Give the model with fixed shapes, or with the shapes of those tensors stated in the file.",
    )


def _check_settings(align: int, seconds: float) -> None:
    if align < 1 or align & (align - 1):
        raise InputError(f"Tensors cannot be aligned to {align} bytes.", "Give a power of two, such as 64.")
    if not 0 <= seconds < float("inf"):
        raise InputError(f"A plan cannot take {seconds} seconds.", "Give a time such as 10s.")


def _check_room(
    tensors: Sequence[Lifetime], rectangles: Sequence[Span], steps: Sequence[str], bound: int, room: int
) -> None:
    if room < 1:
        raise InputError(f"An arena cannot have {room} bytes.", "Give a size above zero.")
    largest = max(range(len(tensors)), key=lambda index: rectangles[index].size, default=None)
    if largest is not None and rectangles[largest].size > room:
        raise InputError(
            f"The tensor '{tensors[largest].name}' alone takes {rectangles[largest].size:,} bytes, and the "
            f"arena is to have {room:,}.",
            "Give more memory, a smaller shape, or quantize the model.",
        )
    if bound > room:
        step = next(
            step
            for step in sorted({span.start for span in rectangles})
            if sum(span.size for span in rectangles if span.start <= step < span.end) == bound
        )
        raise InputError(
            f"No plan needs less than {bound:,} bytes: so much is alive at step {step} ('{steps[step]}'), "
            f"and {room:,} are asked for.",
            "Let the operators be reordered (--order best), give more memory or a smaller shape, or quantize "
            "the model.",
        )
