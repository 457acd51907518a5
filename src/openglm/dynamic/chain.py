"""A program's segments run one after another, as every row goes that does not leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from openglm.dynamic.calibration import proven
from openglm.dynamic.gates.tokens import Tokens
from openglm.dynamic.samples import Samples
from openglm.runtimes.engine import Runs

SCALES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""By which the thresholds that tokens' importance has learnt are multiplied, from careful to bold."""


class Chain(NamedTuple):
    """Segments in order, and what there is between them."""

    runners: Sequence[Runs]
    exits: frozenset[int]
    """The segments, from 0, behind which rows may leave; all may behind the last."""
    tokens: Mapping[int, Tokens]
    """The gates behind segments that drop tokens."""
    answer: str
    """The output's name."""

    def answers(self, samples: Iterable[Mapping[str, np.ndarray]], scale: float) -> np.ndarray:
        """What each exit says, and the end, (exits + 1, rows, classes), with the tokens' thresholds at
        this scale; 0: no token is dropped."""
        gates = {place: gate.model_copy(update={"scale": scale}) for place, gate in self.tokens.items()}
        found = []
        for sample in samples:
            state, said = dict(sample), []
            for place, runner in enumerate(self.runners):
                state |= runner.run({name: state[name] for name in runner.inputs})
                if place in self.exits or place == len(self.runners) - 1:
                    said.append(state[self.answer].reshape(len(state[self.answer]), -1))
                if scale and place in gates:
                    (passed,) = gates[place].split(state)
                    state = passed.state
            found.append(said)
        return np.stack([np.concatenate(rows) for rows in zip(*found, strict=True)])

    def boldest(self, samples: Samples, max_drop: float, certainty: float) -> float:
        """The boldest scale of the tokens' thresholds that is shown to cost at most `max_drop` in the
        mean, with `certainty`; 0: none is."""
        end = self.answers(samples.inputs, 0.0)[-1]
        whole = samples.losses(end, end)
        found = 0.0
        for scale in SCALES:
            lost = samples.losses(self.answers(samples.inputs, scale)[-1], end)
            if not proven(lost - whole, max_drop, certainty):
                break
            found = scale
        return found


def dropped(scale: float, samples: Samples, certainty: float) -> str:
    """What becomes of tokens at a scale that was found, in words."""
    if not scale:
        return (
            f"No token is dropped: {len(samples.labels)} samples do not show, with {certainty:.0%} "
            f"certainty, that it would cost little enough {samples.judged}."
        )
    return f"Tokens are dropped, at {scale:g} times the thresholds that were learnt."
