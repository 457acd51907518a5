"""A search for a plan within a given capacity: it finds one, or proves that there is none, or time is up.

Buffers are placed from the bottom up, each on the floor or on top of one that is alive with it: any plan can
be pressed down into one that is made like that (Moffitt, "MiniMalloc: A Lightweight Memory Allocator for
Hardware-Accelerated Machine Learning", ASPLOS 2023). Time falls into sections, in which the same buffers
are alive. Offsets only rise, and of two buffers on one level the one of lower rank comes first, so each plan
is made in one way alone; of buffers that are alike, the first lies lowest. What follows for a buffer that was
passed over, because the floor rose above its rest: something has still to come under it. A node of the search
is given up where

- a section's lowest possible offset and all that still has to stand in it exceed the capacity,
- a buffer cannot lie low enough any more,
- one that was passed over would still fit whole below the floor: then the plan was not pressed down.

Which buffer goes first on a level decides nearly everything, so the search starts again and again, after
few nodes, with another order: by one of `Search.leads`, with some noise, and buffers that stood in sections
which failed brought forward (as weights do in constraint solvers; Boussemart and others, "Boosting Systematic
Search by Weighting Constraints", ECAI 2004). The first lead has more patience each time, so that a small
problem is searched whole in the end, which proves that there is no plan.
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
    growth: float = 1.0
    """Of the patience from start to start."""
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
    rests: np.ndarray
    """What each buffer would lie on, were it placed now; `FAR` for those that are placed."""
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
        # The least that can come under a buffer.
        self.under = np.array([self.sizes[near].min(initial=FAR) for near in self.beside], np.int64)
        before: dict[Span, int] = {}
        # Of buffers that are alike, one is placed after the other. -1: there is none like it before it.
        self.twin = np.full(len(spans), -1)
        for index, span in enumerate(spans):
            self.twin[index] = before.get(span, -1)
            before[span] = index
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
            _Lead(sections * self.sizes, noise=0.15, learning=1, patience=3, growth=1.1),
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
            found = _Descent(self, lead, capacity).run(until)
            lead.blame *= 0.95
            lead.patience *= lead.growth
            if found is not None:
                return found
        return None


class _Descent:
    """One start of the search, in one order."""

    def __init__(self, search: Search, lead: _Lead, capacity: int) -> None:
        self.search, self.lead, self.capacity = search, lead, capacity
        self.ranks = lead.ranks(search.random)

    def run(self, until: float) -> list[int] | None:
        """A plan, or none where patience or time ends; raises `Infeasible` as `Search.within` does."""
        search, lead = self.search, self.lead
        count = len(search.sizes)
        placed = [0] * count
        root = self._node(np.zeros(count, np.int64), search.total, floor=0, rank=-1, depth=0)
        stack = [] if root is None else [root]
        for spent in range(int(lead.patience * count) + 50):
            while stack and not stack[-1].choices:
                stack.pop()
            if not stack:
                raise Infeasible
            if spent % 64 == 0 and time.monotonic() > until:
                return None
            lead.nodes += 1
            rests, remaining, choices = stack[-1]
            offset, rank, index = choices.pop()
            placed[index] = offset
            if len(stack) == count:
                return placed
            rests, remaining = rests.copy(), remaining.copy()
            near = search.beside[index]
            rests[near] = np.maximum(rests[near], offset + int(search.sizes[index]))
            rests[index] = FAR
            remaining[search.first[index] : search.last[index]] -= search.sizes[index]
            node = self._node(rests, remaining, offset, rank, len(stack))
            if node is not None:
                stack.append(node)
        return None

    def _node(
        self, rests: np.ndarray, remaining: np.ndarray, floor: int, rank: int, depth: int
    ) -> _Node | None:
        """What can be placed next, `depth` buffers being placed and the last of them at `floor`; none where
        the capacity cannot be kept."""
        search, capacity = self.search, self.capacity
        passed = (rests < floor) | ((rests == floor) & (self.ranks <= rank))
        lows = np.where(passed, floor + search.under, rests)
        lowest = np.minimum.reduceat(lows[search.flat], search.starts)
        full = (lowest + remaining > capacity) & (remaining > 0)
        section = int(full.argmax())
        if full[section]:
            members = search.members[section]
            self.lead.blame[members[rests[members] < FAR]] += 1
            return None
        above = lows + search.sizes > capacity
        if int(np.count_nonzero(above)) > depth:
            self.lead.blame[above & (rests < FAR)] += 1
            return None
        # The next offset is the floor of every section that is not full: beyond this one some overflow.
        most = min(int((rests + search.sizes).min()) - 1, capacity - int(remaining.max()))
        near = np.flatnonzero((rests <= most) & ~passed)
        near = near[(search.twin[near] < 0) | (rests[search.twin[near]] == FAR)]
        choices = list(zip(rests[near].tolist(), self.ranks[near].tolist(), near.tolist(), strict=True))
        choices.sort(reverse=True)
        return _Node(rests, remaining, choices)
