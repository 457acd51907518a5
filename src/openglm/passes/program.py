"""A program of a graph with exits, or that may drop tokens: cut there, with a gate at each cut.

The graph is cut as it will run, quantized or not, and what its gates let through is settled by what the
segments answer on the engine. Cuts at which nothing would be gained are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.calibration import calibrate, proven
from openglm.dynamic.confidence import Confidence
from openglm.dynamic.cutting import Piece
from openglm.dynamic.entropy import Entropy
from openglm.dynamic.gate import AnswerGate, GateConfig, finite
from openglm.dynamic.learned import learn
from openglm.dynamic.patience import Patience
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.passes.contract import Context, Draft, ProgramPass
from openglm.passes.structure.segments import Chain, Cuts, Point, Samples
from openglm.runtimes.onnxruntime import NAME

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""By which the thresholds that tokens' importance has learnt are multiplied, from careful to bold."""


class ProgramOfExits(ProgramPass):
    """Cut the graph, and let inputs leave and tokens go where that costs no more than is allowed.

    Raises `InputError` for a graph with nothing to cut at, or without data to settle the gates by.
    """

    scheme: ClassVar[str] = "program"
    needs_calibration: ClassVar[bool] = True

    gate: Literal["confidence", "entropy", "patience", "learned"] | None = None
    """What decides at exits; if not given, confidence, or patience where the answer is one number."""
    max_drop: float = Field(default=0.005, ge=0, le=1)
    """What the gates may cost in the mean: of accuracy, or of a number as a share of the labels' range;
    without labels, of agreement with the whole model. Half each where inputs leave and tokens go."""
    certainty: float = Field(default=0.9, gt=0, lt=1)
    """With which they cost no more on inputs of the same kind."""
    samples: int = Field(default=2000, ge=2)
    """Of the data, at most. For exits, half propose thresholds, half test them."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.gate}" if self.gate is not None else self.scheme

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        cuts = Cuts.of(graph)
        if context.labelled is None:
            raise InputError("The gates of a program need data to be set on.", "Give --data.")
        samples = Samples.of(islice(context.labelled(), self.samples))
        kinds = {point.kind for point in cuts.points}
        drop, certainty = self.max_drop / len(kinds), 1 - (1 - self.certainty) / len(kinds)
        points, notes, scale = list(cuts.points), [], 0.0
        chain: Chain | None = None
        longest = max(samples.inputs, key=lambda batch: max(array.size for array in batch.values()))
        if "tokens" in kinds:
            chain = Chain(graph, cuts, [point for point in points if point.kind == "tokens"], longest)
            scale = _scale(chain, samples, drop, certainty)
            if not scale:
                points = [point for point in points if point.kind == "exit"]
            notes.append(self._of_tokens(scale, len(samples.labels), samples.judged))
        leave: dict[Point, AnswerGate] = {}
        if "exit" in kinds:
            chain = Chain(graph, cuts, points, longest)
            leave, told = self._exits(chain, cuts.answer, samples, scale, drop, certainty)
            points = [point for point in points if point.kind == "tokens" or point in leave]
            notes.append(told)
        if chain is None or chain.points != tuple(points):
            chain = Chain(graph, cuts, points, longest)
        gates = [
            leave[point] if point.kind == "exit" else chain.gate(place, scale)
            for place, point in enumerate(points)
        ]
        return Draft(
            program(chain.pieces, gates),
            {f"segment_{place}": piece.graph for place, piece in enumerate(chain.pieces)},
            tuple(notes),
        )

    def _exits(
        self, chain: Chain, answer: str, samples: Samples, scale: float, drop: float, certainty: float
    ) -> tuple[dict[Point, AnswerGate], str]:
        """The gates of the exits at which somebody leaves, and what they were found to do."""
        answers = chain.answers(samples.inputs, scale)
        exits = _exits(self.gate, answers, answer)
        places = [place for place, point in enumerate(chain.points) if point.kind == "exit"]
        work = np.cumsum(_work(chain.pieces))[[*places, -1]]
        scores = np.stack([item.scores for item in exits])
        found = calibrate(scores, samples.losses(answers, answers[-1]), work, drop, certainty)
        points = [chain.points[place] for place in places]
        last = max((place for place, least in enumerate(found.thresholds) if least is not None), default=-1)
        made: dict[Point, AnswerGate] = {}
        for place in range(last + 1):
            least, closed = found.thresholds[place], exits[place].closed
            if least is not None:
                made[points[place]] = exits[place].gate(least)
            elif closed is not None:
                made[points[place]] = closed
        leave = [
            str(p.number) for p, least in zip(points, found.thresholds, strict=True) if least is not None
        ]
        if not leave:
            reason = samples.unproven(found, self.max_drop, self.certainty)
            return made, f"No input leaves early: {reason}."
        cost = samples.cost(found, self.max_drop, self.certainty)
        return made, f"Inputs leave at exit {', '.join(leave)}: {cost}."

    def _of_tokens(self, scale: float, rows: int, judged: str) -> str:
        if not scale:
            return (
                f"No token is dropped: {rows} samples do not show, with {self.certainty:.0%} certainty, that "
                f"it would cost little enough {judged}."
            )
        return f"Tokens are dropped, at {scale:g} times the thresholds that were learnt."


def _scale(chain: Chain, samples: Samples, drop: float, certainty: float) -> float:
    """The boldest scale of the tokens' thresholds that is proven to cost no more than allowed; 0: none is."""
    end = chain.answers(samples.inputs, 0.0)[-1]
    whole = samples.losses(end, end)
    found = 0.0
    for scale in SCALES:
        lost = samples.losses(chain.answers(samples.inputs, scale)[-1], end)
        if not proven(lost - whole, drop, certainty):
            break
        found = scale
    return found


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


class _Exit(NamedTuple):
    """An exit's gate, whose threshold is yet to be set."""

    scores: np.ndarray
    """How sure it is of each row, (rows,)."""
    gate: Callable[[float], AnswerGate]
    """The gate at which rows leave from this score on."""
    closed: AnswerGate | None = None
    """What stands here where nobody leaves, if the gates after it need that."""


def _exits(kind: str | None, answers: np.ndarray, answer: str) -> list[_Exit]:
    *exits, end = answers
    one_number = end.shape[-1] == 1
    kind = kind or ("patience" if one_number else "confidence")
    if kind == "patience":
        return _patient(exits, answer, one_number)
    if one_number:
        raise InputError(
            f"A gate of kind {kind} goes by classes, and the model answers with one number.",
            'Use "patience".',
        )
    if kind == "confidence":
        return [
            _Exit(Confidence.score(logits), lambda least: Confidence(output=answer, threshold=least))
            for logits in exits
        ]
    if kind == "entropy":
        return [
            _Exit(-Entropy.score(logits), lambda least: Entropy(output=answer, threshold=-least))
            for logits in exits
        ]
    return [_learned(logits, end, answer) for logits in exits]


def _learned(logits: np.ndarray, end: np.ndarray, answer: str) -> _Exit:
    half = slice(0, None, 2)  # that which proposes thresholds
    gate = learn(logits[half], (logits.argmax(-1) == end.argmax(-1))[half], answer, 0.5)
    return _Exit(gate.score(logits), lambda least: gate.model_copy(update={"threshold": least}))


def _patient(exits: Sequence[np.ndarray], answer: str, one_number: bool) -> list[_Exit]:
    closed = Patience(output=answer, patience=len(exits) + 1)

    def near(least: float) -> Patience:
        return Patience(output=answer, patience=1, tolerance=-least)

    def alike(least: float) -> Patience:
        return Patience(output=answer, patience=int(least))

    found = []
    before, run = np.full(len(exits[0]), np.nan), np.zeros(len(exits[0]))
    for logits in exits:
        said = logits[:, 0].astype(np.float64) if one_number else logits.argmax(-1).astype(np.float64)
        said = np.where(finite(logits), said, np.nan)
        apart = np.abs(said - before)
        run = np.where(apart == 0, run + 1, 0)
        if one_number:
            found.append(_Exit(np.nan_to_num(-apart, nan=-np.inf), near, closed))
        else:
            found.append(_Exit(np.where(run >= 1, run, -np.inf), alike, closed))
        before = said
    return found
