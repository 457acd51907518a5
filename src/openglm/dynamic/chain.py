"""A program's segments run one after another, as every row goes that does not leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from openglm.dynamic.gates.tokens import LEAST, Tokens
from openglm.dynamic.samples import Samples
from openglm.runtimes.engine import Runs

SHARES = (0.5, 0.25, 0.0)
"""Of the tokens beyond the least number, what may stay at each gate, from careful to bold."""
LEASTS = (4 * LEAST, 3 * LEAST, 2 * LEAST, LEAST)
"""Tokens that may be let stay in any case, from careful to bold."""


class Lengths(NamedTuple):
    """How many tokens stay at each gate that drops some; see `Tokens`."""

    least: int = LEAST
    share: float = 1.0

    def set(self, gate: Tokens) -> Tokens:
        """The gate with these numbers, in place of a threshold that it may have had."""
        return gate.model_copy(update={**self._asdict(), "threshold": 0.0})

    @property
    def told(self) -> str:
        """In words."""
        return f"at each gate {self.share:.0%} of those beyond the {self.least} most important stay"


WHOLE = Lengths()
"""No token is dropped."""


class Way(NamedTuple):
    """What a program does with samples if so many of their tokens stay."""

    lengths: Lengths
    answers: np.ndarray
    """What each exit says, and the end, (exits + 1, rows, classes)."""
    work: np.ndarray
    """The share of the whole model's work until there, (exits + 1, rows)."""
    cuts: np.ndarray
    """How many gates have dropped tokens until there, (exits + 1,)."""
    tokens: np.ndarray | None = None
    """How many tokens come to the first gate that may drop some, (rows,), where there is one."""

    def with_rows(self, rows: np.ndarray, part: Way) -> Way:
        """This way, but for some of its rows, of which `part` tells."""
        answers, work = self.answers.copy(), self.work.copy()
        answers[:, rows], work[:, rows] = part.answers, part.work
        return self._replace(lengths=part.lengths, answers=answers, work=work, cuts=part.cuts)


class Chain(NamedTuple):
    """Segments in order, and what there is between them."""

    runners: Sequence[Runs]
    work: Sequence[float]
    """Each segment's share of the whole work."""
    exits: frozenset[int]
    """The segments, from 0, behind which rows may leave; all may behind the last."""
    tokens: Mapping[int, Tokens]
    """The gates behind segments that drop tokens."""
    answer: str
    """The output's name."""

    def way(self, samples: Samples, lengths: Lengths = WHOLE) -> Way:
        """What becomes of samples with so many of their tokens."""
        last = len(self.runners) - 1
        gates = {} if lengths == WHOLE else {at: lengths.set(gate) for at, gate in self.tokens.items()}
        said: list[list[np.ndarray]] = []
        spent: list[list[float]] = []
        tokens: list[int] = []
        for sample in samples.inputs:
            state, done, left = dict(sample), 0.0, 1.0
            for found in (said, spent):
                found.append([])
            for place, runner in enumerate(self.runners):
                state |= runner.run({name: state[name] for name in runner.inputs})
                done += left * self.work[place]
                if place in self.exits or place == last:
                    said[-1].append(state[self.answer].reshape(len(state[self.answer]), -1))
                    spent[-1].append(done)
                if place == min(self.tokens, default=-1):
                    tokens.append(int(self.tokens[place].there(state).sum()))
                if place in gates:
                    (passed,) = gates[place].split(state)
                    left *= gates[place].left(state, passed.state)
                    state = passed.state
        answers = np.stack([np.concatenate(rows) for rows in zip(*said, strict=True)])
        asked = [place for place in range(last + 1) if place in self.exits or place == last]
        cuts = np.array([sum(gate < place for gate in gates) for place in asked])
        return Way(lengths, answers, np.array(spent).T, cuts, np.array(tokens) if tokens else None)

    def ways(self, samples: Samples, max_drop: float) -> Iterator[Way]:
        """First with all tokens, then with fewer and fewer, as long as the half of the samples that proposes
        does not show that it costs more than `max_drop` in the mean.

        Their work is in shares of what the whole model does for an input of the mean size: what a long input
        saves counts as much more as it is longer.
        """
        sizes = np.array([sum(array.size for array in sample.values()) for sample in samples.inputs])
        weights = sizes / sizes.mean()
        whole = self.way(samples)
        yield whole._replace(work=weights * whole.work)
        end = whole.answers[-1]
        base = samples.losses(end, end)
        for least in LEASTS if self.tokens else ():
            assert whole.tokens is not None
            longer = np.flatnonzero(whole.tokens > least)  # the others keep all of theirs
            for share in SHARES if longer.size else ():
                part = self.way(samples.of_rows(longer), Lengths(least, share))
                way = whole.with_rows(longer, part)
                yield way._replace(work=weights * way.work)
                lost = (samples.losses(way.answers[-1], end) - base)[::2]
                if lost.mean() - lost.std() / max(len(lost), 1) ** 0.5 > max_drop:
                    break
