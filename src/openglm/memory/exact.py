"""A search for a plan within a given capacity; it finds one, or proves that there is none, or runs out of time.

Buffers are placed from the bottom up, each on the floor that those below it leave: any plan can be pressed
down into one that is made like that (Moffitt, "MiniMalloc: A Lightweight Memory Allocator for
Hardware-Accelerated Machine Learning", ASPLOS 2023). Time falls into sections, in which the same buffers
are alive. A node of the search is given up where

- a section's lowest possible floor and all that still has to stand in it exceed the capacity,
- a buffer's offset could also be reached after another that fits wholly under it (that one goes first),
- the same plan is made by another order of buffers on one level.

Which buffer goes first on a level decides nearly everything, so the search starts again and again, after
few nodes, with another order: by one of `LEADS`, with some noise, and buffers that stood in sections which
failed brought forward (as weights do in constraint solvers; Boussemart and others, "Boosting Systematic
Search by Weighting Constraints", ECAI 2004). A search that ends by itself has seen every plan.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from openglm.memory.problem import Span, conflicts

FAR = 1 << 40
"""Above all capacities: the offset of what is placed, where the lowest of the others is looked for."""


class Infeasible(Exception):  # noqa: N818  # a result, not an error
    """No plan keeps within the capacity."""


@dataclass
class _Lead:
    """A way of ordering buffers, and what it has learnt."""

    by: np.ndarray
    noise: float
    learning: float
    """How much further forward the buffer that failed most is brought."""
    patience: float
    """Nodes for each buffer before the next start."""
    blame: np.ndarray = field(init=False)
    nodes: int = 0

    def __post_init__(self) -> None:
        self.blame = np.zeros(len(self.by))

    def ranks(self, random: np.random.Generator) -> np.ndarray:
        worst = max(float(self.blame.max(initial=0)), 1e-9)
        noise = np.exp(self.noise * random.uniform(-1, 1, len(self.by)))
        keys = self.by * noise * (1 + self.learning * self.blame / worst)
        ranks = np.empty(len(keys), np.int64)
        ranks[np.argsort(-keys, kind="stable")] = np.arange(len(keys))
        return ranks


class _Node(NamedTuple):
    offsets: np.ndarray
    """The lowest that each buffer can lie; `FAR` for those that are placed."""
    remaining: np.ndarray
    """What still has to stand in each section."""
    choices: list[tuple[int, int, int]]
    """Offset, rank and index of the buffers that can be next, the best last."""


class Search:
    """The search over one group of buffers; what it learns is kept from one capacity to the next."""

    def __init__(self, spans: Sequence[Span], seed: int = 0) -> None:
        times = sorted({span.start for span in spans} | {span.end for span in spans})
        place = {moment: index for index, moment in enumerate(times)}
        self.first = [place[span.start] for span in spans]
        self.last = [place[span.end] for span in spans]
        self.sizes = np.array([span.size for span in spans], np.int64)
        self.beside = conflicts(spans)
        self.under = np.array([self.sizes[near].min(initial=FAR) for near in self.beside], np.int64)
        pairs = zip(self.first, self.last, strict=True)
        inside = np.zeros((len(times) - 1, len(spans)), bool)
        for index, (first, last) in enumerate(pairs):
            inside[first:last, index] = True
        self.members = [np.flatnonzero(row) for row in inside]
        self.flat = np.concatenate(self.members)
        self.starts = np.cumsum([0, *(len(group) for group in self.members[:-1])])
        self.total = inside @ self.sizes
        sections = np.subtract(self.last, self.first).astype(float)
        lives = np.array([span.end - span.start for span in spans], float)
        self.leads = [
            _Lead(sections * self.sizes, noise=0.15, learning=1, patience=3),
            _Lead(sections, noise=0.05, learning=20, patience=1.3),
            _Lead(lives, noise=0.05, learning=20, patience=1.3),
        ]
        self.random = np.random.default_rng(seed)

    def within(self, capacity: int, seconds: float) -> list[int] | None:
        """Offsets of a plan of at most `capacity` units; none where the time ran out.

        Raises `Infeasible` where it is proven that there is no such plan.
        """
        until = time.monotonic() + seconds
        if int(self.total.max()) > capacity:
            raise Infeasible
        while time.monotonic() < until:
            lead = min(self.leads, key=lambda lead: lead.nodes)
            found = self._descend(capacity, lead, until)
            lead.blame *= 0.95
            if found is not None:
                return found
        return None

    def _descend(self, capacity: int, lead: _Lead, until: float) -> list[int] | None:
        count = len(self.sizes)
        ranks = lead.ranks(self.random)
        sizes, beside, remaining = self.sizes, self.beside, self.total
        limit = int(lead.patience * count) + 50
        placed = [0] * count
        stack: list[_Node] = []
        trail: list[int] = []
        node = self._open(np.zeros(count, np.int64), remaining, capacity, 0, -1, lead, ranks, 0)
        assert node is not None
        stack.append(node)
        for spent in range(limit):
            while stack and not stack[-1].choices:
                stack.pop()
                if trail:
                    trail.pop()
            if not stack:
                raise Infeasible
            if spent % 64 == 0 and time.monotonic() > until:
                return None
            lead.nodes += 1
            offsets, remaining, choices = stack[-1]
            offset, rank, index = choices.pop()
            placed[index] = offset
            if len(trail) + 1 == count:
                return placed
            offsets = offsets.copy()
            near = beside[index]
            offsets[near] = np.maximum(offsets[near], offset + int(sizes[index]))
            offsets[index] = FAR
            remaining = remaining.copy()
            remaining[self.first[index] : self.last[index]] -= sizes[index]
            child = self._open(offsets, remaining, capacity, offset, rank, lead, ranks, len(trail) + 1)
            if child is not None:
                trail.append(index)
                stack.append(child)
        return None

    def _open(
        self,
        rests: np.ndarray,
        remaining: np.ndarray,
        capacity: int,
        floor: int,
        rank: int,
        lead: _Lead,
        ranks: np.ndarray,
        depth: int,
    ) -> _Node | None:
        """What can be placed next; none where the capacity cannot be kept."""
        missed = (rests < floor) | ((rests == floor) & (ranks <= rank))
        lows = np.where(missed, floor + self.under, rests)
        lowest = np.minimum.reduceat(lows[self.flat], self.starts)
        full = (lowest + remaining > capacity) & (remaining > 0)
        section = int(full.argmax())
        if full[section]:
            members = self.members[section]
            lead.blame[members[rests[members] < FAR]] += 1
            return None
        above = lows + self.sizes > capacity
        if int(np.count_nonzero(above)) > depth:
            lead.blame[above & (rests < FAR)] += 1
            return None
        # A section's floor is at least the next offset: beyond this one some section overflows.
        most = min(int((rests + self.sizes).min()) - 1, capacity - int(remaining.max()))
        near = np.flatnonzero((rests <= most) & ~missed)
        choices = list(zip(rests[near].tolist(), ranks[near].tolist(), near.tolist(), strict=True))
        choices.sort(reverse=True)
        return _Node(rests, remaining, choices)
