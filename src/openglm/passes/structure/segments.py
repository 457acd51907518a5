"""A graph with exits, and with layers behind which tokens may be dropped, cut there and run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir

from openglm.dynamic.chain import Chain, Lengths
from openglm.dynamic.cutting import EXIT, IMPORTANCE, STATES, cut
from openglm.dynamic.gates.tokens import Tokens
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.runtimes.onnxruntime import Runner

TOKENS = "attention_mask"
"""The input that says where there are tokens, (rows, tokens)."""


class Point(NamedTuple):
    """A place to cut at."""

    kind: Literal["exit", "tokens"]
    number: int
    """Counted from 1 among those of its kind, as in its outputs' names."""


@dataclass(frozen=True)
class Cuts:
    """What a graph offers."""

    points: tuple[Point, ...]
    """In the order they are reached."""
    answer: str
    """The output that is the model's own."""

    @classmethod
    def of(cls, graph: ir.Model) -> Cuts:
        """Raises `InputError` for a graph that offers none, or has several outputs of its own."""
        outputs = {str(value.name): value for value in graph.graph.outputs}
        points: list[Point] = []
        for prefix, kind in ((EXIT, "exit"), (IMPORTANCE, "tokens")):
            names = [name for name in outputs if name.startswith(prefix)]
            points += [Point(kind, int(name.removeprefix(prefix))) for name in names]  # type: ignore[arg-type]
        own = [name for name in outputs if not name.startswith((EXIT, IMPORTANCE, STATES))]
        if not points or len(own) != 1:
            raise InputError(
                f"The model gives {len(own)} outputs, and a program one."
                if points
                else "The graph has no exits, and no layers to drop tokens behind.",
                "Put early_exit or token_pruning, and distil, before program in the recipe.",
            )
        points.sort(key=lambda point: _depth([outputs[name] for name in _outputs(point)]))
        return cls(tuple(points), own[0])

    def stages(self, points: Sequence[Point]) -> list[dict[str, str]]:
        """What the segments give, cut at these points; every answer is called as the model's own."""
        found = []
        for point in points:
            names = _outputs(point)
            found.append({name: self.answer if point.kind == "exit" else name for name in names})
        return [*found, {self.answer: self.answer}]


def _outputs(point: Point) -> tuple[str, ...]:
    if point.kind == "exit":
        return (f"{EXIT}{point.number}",)
    return (f"{IMPORTANCE}{point.number}", f"{STATES}{point.number}")


def _depth(values: Sequence[ir.Value]) -> int:
    """How many nodes come before these values."""
    seen: set[ir.Node] = set()
    waiting = [node for value in values if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            producers = (given.producer() for given in node.inputs if given is not None)
            waiting += [before for before in producers if before is not None]
    return len(seen)


def answers_of(graph: ir.Model, answer: str, samples: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """What a whole graph says, (rows, classes)."""
    (runner,) = loaded([graph])
    found = [runner.run({name: sample[name] for name in runner.inputs})[answer] for sample in samples]
    return np.concatenate([rows.reshape(len(rows), -1) for rows in found])


def loaded(graphs: Iterable[ir.Model]) -> list[Runner]:
    """Graphs, ready to run on one thread."""
    found = []
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        for place, graph in enumerate(graphs):
            path = Path(folder, f"{place}.onnx")
            onnx_file.write(graph, path)
            found.append(Runner(path, threads=1))
    return found


class Segments:
    """A graph cut at points, one segment after another.

    `probe` is one input; where tokens are dropped it says what stands for an absent one.
    """

    def __init__(
        self, graph: ir.Model, cuts: Cuts, points: Sequence[Point], probe: Mapping[str, np.ndarray]
    ) -> None:
        self.points = tuple(points)
        places = [place for place, point in enumerate(points) if point.kind == "tokens"]
        self.pieces = cut(graph, cuts.stages(points), shortened=bool(places))
        self._answer = cuts.answer
        self._axis = _token_axis(graph)
        self._gates: dict[int, Tokens] = {}
        if places:
            absent = self._absent(probe)
            for place in places:
                self._gates[place] = self._gate(place, points[place].number, absent)

    @cached_property
    def _runners(self) -> list[Runner]:
        """Those that nobody asks need not be loaded."""
        return loaded([piece.graph for piece in self.pieces])

    def chain(self, work: Sequence[float]) -> Chain:
        """The segments to run, with the share of the work that each does; rows leave at every exit among
        the points."""
        exits = frozenset(place for place, point in enumerate(self.points) if point.kind == "exit")
        return Chain(self._runners, work, exits, self._gates, self._answer)

    def gate(self, place: int, lengths: Lengths) -> Tokens:
        """The gate after a segment that drops tokens."""
        return lengths.set(self._gates[place])

    def _later(self, place: int) -> list[str]:
        """What segments after this one take of what is known by then."""
        own = {str(value.name) for value in self.pieces[0].graph.graph.inputs}
        known = own.union(*({spec.name for spec in piece.outputs} for piece in self.pieces[: place + 1]))
        taken = [str(value.name) for piece in self.pieces[place + 1 :] for value in piece.graph.graph.inputs]
        return [name for name in dict.fromkeys(taken) if name in known]

    def _axes(self) -> dict[str, list[int]]:
        """Where the tokens are in each array."""
        shapes = {}
        for piece in self.pieces:
            for value in piece.graph.graph.inputs:
                shapes[str(value.name)] = [str(size) for size in value.shape or ()]
        return {
            name: [axis for axis, size in enumerate(shape) if size == self._axis]
            for name, shape in shapes.items()
        }

    def _absent(self, probe: Mapping[str, np.ndarray]) -> dict[str, float]:
        """What arrays with a number for each token hold where there is none."""
        if TOKENS not in probe:
            raise InputError(
                f"The model has no input {TOKENS}, by which tokens are known.", "Leave token_pruning out."
            )
        row = int((probe[TOKENS] != 0).sum(axis=1).argmax())
        last = int(np.flatnonzero(probe[TOKENS][row]).max(initial=0))
        whole = {name: array[row : row + 1] for name, array in probe.items()}
        without = {**whole, TOKENS: whole[TOKENS].copy()}
        without[TOKENS][0, last] = 0
        for runner in self._runners:
            for state in (whole, without):
                state |= runner.run({name: state[name] for name in runner.inputs})
        found = {}
        for name, axes in self._axes().items():
            by_token = name in whole and len(axes) == 1 and whole[name].size == whole[TOKENS].size
            if by_token and not name.startswith(IMPORTANCE):
                there, absent = (float(state[name].reshape(-1)[last]) for state in (whole, without))
                if there != absent:
                    found[name] = absent
        return found

    def _gate(self, place: int, number: int, absent: Mapping[str, float]) -> Tokens:
        later, axes = self._later(place), self._axes()
        masks = {name: value for name, value in absent.items() if name in later}
        square = next((name for name in later if len(axes[name]) > 1), None)
        if square is not None or not masks:
            raise InputError(
                f"What '{square}' holds for pairs of tokens goes on to later layers."
                if square
                else "No mask of tokens goes on to later layers.",
                "Leave token_pruning out for this model.",
            )
        mask = next(iter(masks))
        return Tokens(
            importance=f"{IMPORTANCE}{number}",
            mask=mask,
            absent=masks.pop(mask),
            also=masks,
            axes={name: axes[name][0] for name in later if axes[name]},
        )


def _token_axis(graph: ir.Model) -> str:
    """The name of the tokens' dimension; empty where there are none."""
    for value in graph.graph.inputs:
        if value.name == TOKENS and value.shape is not None and len(value.shape) == 2:
            return str(value.shape[1])
    return ""
