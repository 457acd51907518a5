"""A program of a graph with exits: cut at them, a gate at each, thresholds set on the user's data.

The graph is cut as it will run, quantized or not, and the thresholds are set on what its segments
answer on the engine. Exits that would let nobody leave are left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.calibration import Calibrated, calibrate
from openglm.dynamic.confidence import Confidence
from openglm.dynamic.cutting import Piece, cut
from openglm.dynamic.entropy import Entropy
from openglm.dynamic.gate import AnswerGate, finite
from openglm.dynamic.learned import learn
from openglm.dynamic.patience import Patience
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, Draft, ProgramPass
from openglm.runtimes.onnxruntime import NAME, Runner

EXIT = "exit_"
"""How the names of exits' outputs begin."""


class ProgramOfExits(ProgramPass):
    """Cut the graph at its exits, and let inputs leave where they cost no more than is allowed.

    Raises `InputError` for a graph without exits, or without data to set thresholds on.
    """

    scheme: ClassVar[str] = "program"
    needs_calibration: ClassVar[bool] = True

    gate: Literal["confidence", "entropy", "patience", "learned"] | None = None
    """What decides; if not given, confidence, or patience where the answer is one number."""
    max_drop: float = Field(default=0.005, ge=0, le=1)
    """What leaving early may cost in the mean: of accuracy, or of a number as a share of the labels'
    range; without labels, of agreement with the whole model."""
    certainty: float = Field(default=0.9, gt=0, lt=1)
    """With which it costs no more on inputs of the same kind."""
    samples: int = Field(default=2000, ge=2)
    """Of the data, at most; half propose thresholds, half test them."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.gate}" if self.gate is not None else self.scheme

    def apply(self, graph: ir.Model, context: Context) -> Draft:
        names = [str(value.name) for value in graph.graph.outputs]
        exits = sorted(
            (name for name in names if name.startswith(EXIT)), key=lambda name: int(name.removeprefix(EXIT))
        )
        answers = [name for name in names if name not in exits]
        if not exits or len(answers) != 1:
            raise InputError(
                "The graph has no exits to cut it at."
                if not exits
                else f"The model gives {len(answers)} outputs, and an exit one.",
                "Put early_exit and distil before it in the recipe.",
            )
        if context.labelled is None:
            raise InputError("Thresholds of exits need data to be set on.", "Give --data.")
        pieces = cut(graph, _stages(exits, answers[0]))
        answered = _answered(pieces, answers[0], islice(context.labelled(), self.samples), context.progress)
        gates = _exits(self.gate, answered, answers[0])
        found = calibrate(
            np.stack([gate.scores for gate in gates]),
            answered.losses(),
            np.cumsum(_work(pieces)),
            self.max_drop,
            self.certainty,
        )
        leave = [place for place, least in enumerate(found.thresholds) if least is not None]
        made: dict[int, AnswerGate] = {}
        for place in range(max(leave, default=-1) + 1):
            least, closed = found.thresholds[place], gates[place].closed
            if least is not None:
                made[place] = gates[place].gate(least)
            elif closed is not None:
                made[place] = closed
        pieces = cut(graph, _stages([exits[place] for place in made], answers[0]))
        return Draft(
            program(pieces, [(gate.kind, gate.model_dump()) for gate in made.values()]),
            {f"segment_{place}": piece.graph for place, piece in enumerate(pieces)},
            (self._told(found, [exits[place] for place in leave], answered.labels is not None),),
        )

    def _told(self, found: Calibrated, exits: Sequence[str], labelled: bool) -> str:
        judged = "of accuracy" if labelled else "of agreement with the whole model"
        if not exits:
            return (
                f"No input leaves early: {found.rows} samples do not show, with {self.certainty:.0%} "
                f"certainty, that it would cost at most {self.max_drop:g} {judged}."
            )
        return (
            f"Inputs leave at {', '.join(exits)}: {found.work:.0%} of the work on "
            f"{found.rows} samples, at a cost of {found.drop:.4f} {judged}, and at most {self.max_drop:g} "
            f"with {self.certainty:.0%} certainty."
        )


def _stages(exits: Sequence[str], answer: str) -> list[dict[str, str]]:
    return [*({name: answer} for name in exits), {answer: answer}]


def _work(pieces: Sequence[Piece]) -> np.ndarray:
    """Each piece's share of the multiply-accumulates of all."""
    macs = np.array([analyse(piece.graph).macs for piece in pieces], np.float64)
    shares: np.ndarray = macs / max(macs.sum(), 1.0)
    return shares


def program(pieces: Sequence[Piece], gates: Sequence[tuple[str, dict[str, Any]]]) -> Program:
    """Pieces one after another, a gate of a kind and settings after each but the last."""
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
        gates=tuple(
            Gate(name=f"gate_{place}", kind=kind, settings=settings, routes=(None, f"segment_{place + 1}"))
            for place, (kind, settings) in enumerate(gates)
        ),
    )


class _Answered(NamedTuple):
    """What all exits say of samples that none has left."""

    answers: np.ndarray
    """(exits + 1, rows, classes), the end's last."""
    labels: np.ndarray | None

    def losses(self) -> np.ndarray:
        """From 0 to 1, (exits + 1, rows): wrong or right; of one number, how far off within their range."""
        if self.answers.shape[-1] > 1:
            said = self.answers.argmax(-1)
            wrong: np.ndarray = (said != (said[-1] if self.labels is None else self.labels)).astype(
                np.float64
            )
            return wrong
        numbers = self.answers[..., 0]
        wanted = numbers[-1] if self.labels is None else self.labels
        span = float(np.ptp(wanted)) or 1.0
        off: np.ndarray = np.clip(np.nan_to_num(np.abs(numbers - wanted) / span, nan=1.0), 0, 1)
        return off


def _answered(
    pieces: Sequence[Piece], answer: str, samples: Any, progress: Callable[[int], None]
) -> _Answered:
    answers: list[list[np.ndarray]] = []
    labels: list[float | None] = []
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        runners = []
        for place, piece in enumerate(pieces):
            path = Path(folder, f"{place}.onnx")
            onnx_file.write(piece.graph, path)
            runners.append(Runner(path, threads=1))
        for batch, label in samples:
            state, said = dict(batch), []
            for runner in runners:
                state |= runner.run({name: state[name] for name in runner.inputs})
                said.append(state[answer].reshape(len(state[answer]), -1))
            answers.append(said)
            labels += [label] * len(said[0])
            progress(len(answers))
    if not answers:
        raise InputError("The data holds no sample to set thresholds on.", "Give data with at least two.")
    together = np.stack([np.concatenate(rows) for rows in zip(*answers, strict=True)])
    known = None if any(label is None for label in labels) else np.array(labels, np.float64)
    return _Answered(together, known)


class _Exit(NamedTuple):
    """An exit's gate, whose threshold is yet to be set."""

    scores: np.ndarray
    """How sure it is of each row, (rows,)."""
    gate: Callable[[float], AnswerGate]
    """The gate at which rows leave from this score on."""
    closed: AnswerGate | None = None
    """What stands here where nobody leaves, if the gates after it need that."""


def _exits(kind: str | None, answered: _Answered, answer: str) -> list[_Exit]:
    *exits, end = answered.answers
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
