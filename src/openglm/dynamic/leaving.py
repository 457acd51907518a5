"""Settles where rows leave a program, a gate for each exit, and how many of their tokens stay, from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from openglm.dynamic.calibration import Calibrated, Option, calibrate
from openglm.dynamic.chain import WHOLE, Lengths, Way
from openglm.dynamic.gates.confidence import Confidence
from openglm.dynamic.gates.entropy import Entropy
from openglm.dynamic.gates.gate import AnswerGate, finite
from openglm.dynamic.gates.learned import learn
from openglm.dynamic.gates.patience import Patience
from openglm.dynamic.samples import Samples
from openglm.errors import InputError

Kind = Literal["confidence", "entropy", "patience", "learned"]


class Settled(NamedTuple):
    """The gates of a program, as the data settled them."""

    gates: tuple[AnswerGate | None, ...]
    """One an exit; none: nobody leaves there."""
    lengths: Lengths
    """What the gates of tokens let stay."""
    found: Calibrated

    def told(
        self, numbers: Sequence[int], tokens: bool, samples: Samples, max_drop: float, certainty: float
    ) -> list[str]:
        """What they do, in words; `numbers` are what the exits are called by, `tokens` says whether tokens
        could have been dropped."""
        thresholds = self.found.thresholds
        leave = [str(number) for number, least in zip(numbers, thresholds, strict=True) if least is not None]
        does, never = [], []
        if tokens and self.lengths != WHOLE:
            does.append(f"Tokens are dropped: {self.lengths.told}")
        elif tokens:
            never.append("No token is dropped")
        if leave:
            does.append(f"Inputs leave at exit {', '.join(leave)}")
        elif numbers:
            never.append("No input leaves early")
        if not does:
            why = samples.unproven(self.found, max_drop, certainty)
            return [f"{'. '.join(never)}: {why}."]
        return [
            f"{'. '.join(does)}: {samples.cost(self.found, max_drop, certainty)}.",
            *(f"{word}." for word in never),
        ]


def settle(
    kind: Kind | None,
    ways: Iterable[Way],
    answer: str,
    samples: Samples,
    max_drop: float,
    certainty: float,
) -> Settled:
    """The gates with which a program does least, of those that cost at most `max_drop` in the mean, with
    `certainty`.

    `ways` are what exits and end say of the samples, first with all tokens, then with fewer; `answer` is the
    output's name. Without a kind it is confidence, or patience where the answer is one number.
    """
    lengths: list[Lengths] = []
    kinds: list[list[Exit]] = []
    options: list[Option] = []
    end = None
    for way in ways:
        end = way.answers[-1] if end is None else end
        exits = exits_of(kind, way.answers, answer)
        scores = np.stack([item.scores for item in exits]) if exits else np.zeros((0, len(end)))
        options.append(Option(scores, samples.losses(way.answers, end), way.work, way.cuts))
        lengths.append(way.lengths)
        kinds.append(exits)
    found = calibrate(options, max_drop, certainty)
    last = max((place for place, least in enumerate(found.thresholds) if least is not None), default=-1)
    gates: list[AnswerGate | None] = []
    for place, (item, least) in enumerate(zip(kinds[found.option], found.thresholds, strict=True)):
        if least is not None:
            gates.append(item.gate(least))
        else:
            gates.append(item.closed if place < last else None)
    return Settled(tuple(gates), lengths[found.option], found)


class Exit(NamedTuple):
    """An exit's gate, whose threshold is yet to be set."""

    scores: np.ndarray
    """How sure it is of each row, (rows,)."""
    gate: Callable[[float], AnswerGate]
    """The gate at which rows leave from this score on."""
    closed: AnswerGate | None = None
    """What stands here where nobody leaves, if the gates after it need that."""


def exits_of(kind: Kind | None, answers: np.ndarray, answer: str) -> list[Exit]:
    """The gates of exits by what they and the end answer, (exits + 1, rows, classes), yet to be set.

    Raises `InputError` for a kind that does not suit the answers.
    """
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
            Exit(Confidence.score(logits), lambda least: Confidence(output=answer, threshold=least))
            for logits in exits
        ]
    if kind == "entropy":
        return [
            Exit(-Entropy.score(logits), lambda least: Entropy(output=answer, threshold=-least))
            for logits in exits
        ]
    return [_learned(logits, end, answer) for logits in exits]


def _learned(logits: np.ndarray, end: np.ndarray, answer: str) -> Exit:
    half = slice(0, None, 2)  # that which proposes thresholds
    gate = learn(logits[half], (logits.argmax(-1) == end.argmax(-1))[half], answer, 0.5)
    return Exit(gate.score(logits), lambda least: gate.model_copy(update={"threshold": least}))


def _patient(exits: Sequence[np.ndarray], answer: str, one_number: bool) -> list[Exit]:
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
            found.append(Exit(np.nan_to_num(-apart, nan=-np.inf), near, closed))
        else:
            found.append(Exit(np.where(run >= 1, run, -np.inf), alike, closed))
        before = said
    return found
