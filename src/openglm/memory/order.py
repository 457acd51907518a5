"""An order of a graph's nodes in which less memory is alive at the worst step.

A search over sets of executed nodes, step by step, which keeps the most promising ones: those of the
lowest peak so far, and among them the least alive. Two ways to the same set are one state, so where none
had to be given up the order is proven best (Ahn and others, "Ordering Chaos: Memory-Aware Scheduling of
Irregularly Wired Neural Networks for Edge Devices", MLSys 2020). A node that can run without raising the
peak and leaves no more alive than before is run at once: that is never worse.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from openglm.memory.lifetime import constants, lifetimes, peak, reads, scratch_bytes, storages, writable
from openglm.model.analysis.shapes import Shapes

WIDTHS = (1, 8, 64, 512, 4096)
"""States kept at each step, one after the other as time allows."""


@dataclass(frozen=True)
class Ordering:
    """An order that needs less than the graph's own, or that one."""

    nodes: tuple[ir.Node, ...]
    peak: int
    """Bytes alive at its worst step."""
    optimal: bool
    """Whether no order needs less."""


@dataclass(frozen=True)
class _Step:
    """What running a node does; sets of nodes and of steps are bits of an integer."""

    before: int
    """The steps that it needs done."""
    after: tuple[int, ...]
    """The steps that need it done."""
    made: int
    """Bytes of new storage."""
    scratch: int
    """Bytes that it needs only while it runs."""
    over: tuple[int, ...]
    """Storage that it could write over."""
    touched: tuple[int, ...]
    """Storage that it reads or makes."""


@dataclass(frozen=True)
class _State:
    done: int
    ready: tuple[int, ...]
    alive: int
    peak: int
    last: int = -1
    before: _State | None = None


def best(shapes: Shapes, *, in_place: bool, seconds: float) -> Ordering:
    """The best order found within `seconds`, never worse than the graph's own."""
    until = time.monotonic() + seconds
    nodes = tuple(shapes.graph)
    own = peak(lifetimes(shapes, in_place=in_place))
    search = _Search(shapes, nodes, in_place)
    if own <= search.least:
        return Ordering(nodes, own, True)
    found, proven = Ordering(nodes, own, False), False
    for width in WIDTHS:
        state, whole = search.run(width, found.peak, until)
        if state is not None:
            order = search.order(state)
            needs = peak(lifetimes(shapes, order=order, in_place=in_place))
            if needs < found.peak:
                found = Ordering(order, needs, False)
        proven = whole or found.peak <= search.least
        if proven or time.monotonic() > until:
            break
    return replace(found, optimal=proven)


class _Search:
    def __init__(self, shapes: Shapes, nodes: Sequence[ir.Node], in_place: bool) -> None:
        graph = shapes.graph
        constant = constants(graph)
        self.constants = [node for node in nodes if node in constant]
        self.nodes = [node for node in nodes if node not in constant]
        storage = storages(graph)
        owners = list(dict.fromkeys(storage.values()))
        place = {owner: index for index, owner in enumerate(owners)}
        self.sizes = [shapes.nbytes(owner) for owner in owners]
        self.users = [0] * len(owners)
        self.kept = {place[storage[value]] for value in graph.outputs if value in storage}
        maker = {value: index for index, node in enumerate(self.nodes) for value in node.outputs}
        followers: list[list[int]] = [[] for _ in self.nodes]
        before = []
        for index, node in enumerate(self.nodes):
            needed = {maker[value] for value in reads(node) if value in maker}
            for other in needed:
                followers[other].append(index)
            before.append(sum(1 << other for other in needed))
        self.steps = []
        for index, node in enumerate(self.nodes):
            made = [value for value in node.outputs if storage.get(value) is value]
            touched = {place[storage[value]] for value in (*reads(node), *node.outputs) if value in storage}
            for owner in touched:
                self.users[owner] |= 1 << index
            over = writable(node, shapes, storage) if in_place else []
            self.steps.append(
                _Step(
                    before=before[index],
                    after=tuple(followers[index]),
                    made=sum(shapes.nbytes(value) for value in made),
                    scratch=scratch_bytes(node, shapes),
                    over=tuple(place[storage[value]] for value in over),
                    touched=tuple(touched),
                )
            )
        given = [place[value] for value in graph.inputs if value in place]
        alive = sum(self.sizes[owner] for owner in given)
        unread = [owner for owner in given if not self.users[owner] and owner not in self.kept]
        self.unread = sum(self.sizes[owner] for owner in unread)
        """Bytes of inputs that no node reads: alive at the first step alone."""
        ready = tuple(index for index, step in enumerate(self.steps) if not step.before)
        self.start = _State(0, ready, alive - self.unread, alive)
        needs = (
            sum(self.sizes[owner] for owner in step.touched) - (step.made if step.over else 0)
            for step in self.steps
        )
        self.least = max(needs, default=0)
        """No order needs less: what one node reads and makes."""

    def order(self, state: _State) -> tuple[ir.Node, ...]:
        found = []
        while state.before is not None:
            found.append(self.nodes[state.last])
            state = state.before
        return (*self.constants, *reversed(found))

    def run(self, width: int, below: int, until: float) -> tuple[_State | None, bool]:
        """A state with all nodes done and a peak under `below`; whether all such ways were followed."""
        states, whole = [self.start], True
        for _ in self.nodes:
            following: dict[int, _State] = {}
            for state in states:
                if time.monotonic() > until:
                    return None, False
                for child in self._children(state, below):
                    known = following.get(child.done)
                    if known is None or (child.peak, child.alive) < (known.peak, known.alive):
                        following[child.done] = child
            states = sorted(following.values(), key=lambda state: (state.peak, state.alive))
            whole = whole and len(states) <= width
            states = states[:width]
        return (states[0] if states else None), whole

    def _children(self, state: _State, below: int) -> list[_State]:
        found = []
        first = self.unread if not state.done and not self.constants else 0
        for index in state.ready:
            step = self.steps[index]
            done = state.done | 1 << index
            ended = {
                owner for owner in step.touched if owner not in self.kept and not self.users[owner] & ~done
            }
            written = step.made if any(owner in ended for owner in step.over) else 0
            needs = state.alive + step.made + step.scratch - written + first
            if needs >= below:
                continue
            alive = state.alive + step.made - sum(self.sizes[owner] for owner in ended)
            opened = tuple(other for other in step.after if not self.steps[other].before & ~done)
            ready = (*(other for other in state.ready if other != index), *opened)
            child = _State(done, ready, alive, max(state.peak, needs), index, state)
            if child.peak == state.peak and alive <= state.alive:
                return [child]
            found.append(child)
        return found
