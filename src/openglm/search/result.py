"""What a search found, which of it serves best, and how that is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from openglm.bundle.manifest import Candidate, Sensitivity
from openglm.bundle.store import writing
from openglm.device.fit import Verdict
from openglm.report.front import front as on_front
from openglm.search.bench import Bench
from openglm.search.clock import KINDS
from openglm.search.package import package
from openglm.search.trial import Trial

SAME_SPEED = 1.1
"""Candidates within this factor of the fastest are equally fast: medians on a busy machine repeat no
better."""
SAME_SIZE = 1.02
"""Candidates within this factor of the smallest are equally small."""
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+@")
"""In a URL, after its user."""


@dataclass
class Result:
    """What an optimization found. Its models' files live as long as it does; `best.save` keeps one."""

    bench: Bench
    trials: list[Trial]
    """In the order they were tried, the unchanged original first."""
    skipped: list[Candidate] = field(default_factory=list)
    stopped: bool = False
    """Whether the user stopped it early."""
    full: str = ""
    """Why it ended early, where the disk was full."""
    sensitivities: tuple[Sensitivity, ...] = ()
    """What each part costs to quantize or to cut."""
    elapsed_s: float = 0.0
    """How long it took, all its runs together."""
    home: Any = field(default=None, repr=False)

    @property
    def verdict_before(self) -> Verdict:
        """The original's verdict."""
        return self.bench.verdict

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by what they went into, of all trials together."""
        kinds = [kind for kind in KINDS if any(kind in trial.candidate.spent for trial in self.trials)]
        return {
            kind: round(sum(trial.candidate.spent.get(kind, 0.0) for trial in self.trials), 1)
            for kind in kinds
        }

    @property
    def best(self) -> Solution:
        """The accepted trial that serves best, by `choose`."""
        return Solution(self, choose(self.trials))

    @property
    def front(self) -> list[Solution]:
        """The accepted trials that no other beats in latency, size and quality at once."""
        return [Solution(self, trial) for trial in front(self.trials)]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that was tried, the best marked as chosen, and what was not."""
        return self.best.candidates

    def explain(self) -> str:
        """What was tried and what became of it, a line each."""
        return "\n".join(f"{item.outcome:9} {item.code}: {item.reason}" for item in self.candidates)


@dataclass(frozen=True)
class Solution:
    """An accepted trial of a search, which can be kept as a bundle."""

    result: Result
    trial: Trial

    @property
    def candidate(self) -> Candidate:
        """What was measured of it."""
        return self.trial.chosen().candidate

    @property
    def verdict(self) -> Verdict:
        """What is predicted of it on the device."""
        return self.trial.verdict or self.result.verdict_before

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that the search tried, this one marked as chosen."""
        tried = (trial.chosen() if trial is self.trial else trial for trial in self.result.trials)
        return (*(trial.candidate for trial in tried), *self.result.skipped)

    def save(self, path: str | PathLike[str], *, command: str = "openglm.optimize(...)") -> Path:
        """Write it as a bundle to `path`, a folder, or a zip with the ending .zip.

        `command` is what the manifest names as its maker, without the passwords of URLs. Raises
        `OutputError` where it cannot be written; then nothing is left there.
        """
        with writing(Path(path)) as folder:
            package(self.result, self, folder, _PASSWORD.sub(r"\1:***@", command))
        return Path(path)


def choose(trials: Sequence[Trial]) -> Trial:
    """The accepted trial that serves best.

    Those that fit the budget come before those that do not, or, where none does, those that miss it
    least. Among these the fastest, of those equally fast the smallest, and of those equally small
    the one that loses least; of those that lose as little, the fastest again, so that no other beats it.
    """
    accepted = [trial for trial in trials if trial.available]
    pool = [trial for trial in accepted if trial.candidate.fits]
    if not pool:
        misses = {id(trial): _miss(trial) for trial in accepted}
        pool = [trial for trial in accepted if misses[id(trial)] <= min(misses.values()) * SAME_SPEED]
    fastest = max(trial.candidate.speedup or 0.0 for trial in pool)
    pool = [trial for trial in pool if (trial.candidate.speedup or 0.0) * SAME_SPEED >= fastest]
    smallest = min(trial.candidate.size_bytes or 0 for trial in pool)
    pool = [trial for trial in pool if (trial.candidate.size_bytes or 0) <= smallest * SAME_SIZE]

    def rank(trial: Trial) -> tuple[float, float, int]:
        return _loss(trial), -(trial.candidate.speedup or 0.0), trial.candidate.size_bytes or 0

    return min(pool, key=rank)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that may be chosen and that no other beats in latency, size and quality at once."""
    available = [trial for trial in trials if trial.available]
    return [available[place] for place in sorted(on_front([trial.candidate for trial in available]))]


def _miss(trial: Trial) -> float:
    """By what factor the worst limit is missed."""
    if trial.verdict is None:
        return float("inf")
    return max(
        (limit.predicted / limit.budget for limit in trial.verdict.limits if limit.budget), default=1.0
    )


def _loss(trial: Trial) -> float:
    quality = trial.candidate.quality
    if quality is None:
        return float("inf")
    return -quality.value if quality.higher_is_better else quality.value
