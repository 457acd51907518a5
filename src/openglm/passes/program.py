"""A program of a graph with exits, or that may drop tokens: cut there, with a gate at each cut.

The graph is cut as it will run, quantized or not, and what its gates let through is settled by what the
segments answer on the engine. Cuts at which nothing would be gained are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.calibration import CERTAINTY
from openglm.dynamic.chain import WHOLE, Lengths
from openglm.dynamic.cutting import Piece
from openglm.dynamic.gates.gate import GateConfig, parse
from openglm.dynamic.leaving import Kind, settle
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.passes.contract import Context, Draft, ProgramPass
from openglm.passes.structure.segments import Cuts, Segments
from openglm.runtimes.onnxruntime import NAME


class ProgramOfExits(ProgramPass):
    """Cut the graph, and let inputs leave and tokens go where that costs no more than is allowed.

    Raises `InputError` for a graph with nothing to cut at.
    """

    scheme: ClassVar[str] = "program"
    needs_calibration: ClassVar[bool] = True

    gate: Kind | None = None
    """What decides at exits; if not given, confidence, or patience where the answer is one number."""
    max_drop: float = Field(default=0.005, ge=0, le=1)
    """What the gates may cost in the mean: of accuracy, or of a number as a share of the labels' range;
    without labels, of agreement with the whole model."""
    certainty: float = Field(default=CERTAINTY, gt=0, lt=1)
    """With which they cost no more on inputs of the same kind."""
    samples: int = Field(default=2000, ge=2)
    """Of the data, at most. Half propose what gates do, half test it."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.gate}" if self.gate is not None else self.scheme

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        if context.labelled is None:
            raise InputError("The gates of a program need data to be set on.", "Give --data.")
        cuts = Cuts.of(graph)
        samples = Samples.of(islice(context.labelled(), self.samples))
        probe = max(samples.inputs, key=lambda batch: max(array.size for array in batch.values()))
        gates, segments = self.settle(graph, cuts, samples, probe)
        return drafted(graph, cuts, gates, probe, segments)

    def settle(
        self, graph: ir.Model, cuts: Cuts, samples: Samples, probe: Mapping[str, np.ndarray]
    ) -> tuple[Gates, Segments]:
        """The gates that samples allow, and the graph as it was cut to find them."""
        segments = Segments(graph, cuts, cuts.points, probe)
        chain = segments.chain(_work(segments.pieces).tolist())
        ways = chain.ways(samples, self.max_drop)
        settled = settle(self.gate, ways, cuts.answer, samples, self.max_drop, self.certainty)
        exits = [(place, point.number) for place, point in enumerate(cuts.points) if point.kind == "exit"]
        leave = {
            number: _gate(place, gate)
            for (place, number), gate in zip(exits, settled.gates, strict=True)
            if gate is not None
        }
        numbers = [number for _, number in exits]
        notes = settled.told(numbers, bool(chain.tokens), samples, self.max_drop, self.certainty)
        return Gates(exits=leave, lengths=settled.lengths, notes=tuple(notes)), segments


class Gates(NamedTuple):
    """What gates of a graph's exits and tokens were found to be allowed to do."""

    exits: dict[int, Gate]
    """By the number of the exit; at others nobody leaves."""
    lengths: Lengths
    """How many tokens stay at each gate that drops some."""
    notes: tuple[str, ...]


def drafted(
    graph: ir.Model,
    cuts: Cuts,
    gates: Gates,
    probe: Mapping[str, np.ndarray],
    segments: Segments | None = None,
) -> Draft:
    """The program of these gates; `segments` are those of the graph, where it has been cut already."""
    points = [
        point
        for point in cuts.points
        if (gates.lengths != WHOLE if point.kind == "tokens" else point.number in gates.exits)
    ]
    if segments is None or segments.points != tuple(points):
        segments = Segments(graph, cuts, points, probe)
    made = [
        parse(gates.exits[point.number]) if point.kind == "exit" else segments.gate(place, gates.lengths)
        for place, point in enumerate(points)
    ]
    return Draft(
        program(segments.pieces, made),
        {f"segment_{place}": piece.graph for place, piece in enumerate(segments.pieces)},
        gates.notes,
    )


def _work(pieces: Sequence[Piece]) -> np.ndarray:
    """Each piece's share of the multiply-accumulates of all."""
    macs = np.array([analyse(piece.graph).macs for piece in pieces], np.float64)
    shares: np.ndarray = macs / max(macs.sum(), 1.0)
    return shares


def program(pieces: Sequence[Piece], gates: Sequence[GateConfig]) -> Program:
    """Pieces one after another, a gate after each but the last."""
    work = _work(pieces)
    return Program(
        segments=tuple(
            Segment(
                name=f"segment_{place}",
                models={NAME: f"segment_{place}.onnx"},
                outputs=piece.outputs,
                work=round(float(work[place]), 6),
                next=f"gate_{place}" if place < len(gates) else None,
            )
            for place, piece in enumerate(pieces)
        ),
        gates=tuple(_gate(place, gate) for place, gate in enumerate(gates)),
    )


def _gate(place: int, gate: GateConfig) -> Gate:
    onward = f"segment_{place + 1}"
    routes = (onward,) if gate.ways == 1 else (None, onward)
    settings: dict[str, Any] = gate.model_dump(mode="json")
    return Gate(name=f"gate_{place}", kind=gate.kind, settings=settings, routes=routes)
