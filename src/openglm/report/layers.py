"""The cost of layers before and after, as many modules as a page can show and the rest in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST = 15

WORTH_A_ROW = 0.004
"""A module below this share of the time is summed with the others."""

NO_MODULE = "(no module)"


@dataclass
class Group:
    """Layers whose names begin alike."""

    name: str
    ms: dict[str, float] = field(default_factory=lambda: {"before": 0.0, "after": 0.0})
    spent: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Milliseconds by phase, kind of word ("precision" or "bound") and word."""

    @property
    def cost(self) -> float:
        """What it is ranked by."""
        return max(self.ms.values())

    def mostly(self, phase: str, kind: str) -> str:
        """The word that most of its time goes to; empty where there is none of it."""
        words = {word: ms for (when, what, word), ms in self.spent.items() if (when, what) == (phase, kind)}
        return max(words, key=lambda word: words[word], default="")


def groups(layers: Sequence[Mapping[str, Any]], most: int = MOST) -> tuple[list[Group], Group | None]:
    """The costliest modules, `most` at most, in the order of their names, and the sum of all others.

    Names are cut at the deepest level at which no more than `most` modules are worth a row.
    """
    known = [layer for layer in layers if layer.get("phase") in ("before", "after")]
    if not known:
        return [], None
    deepest = max(str(layer.get("name", "")).count(".") + 1 for layer in known)
    cut = _cut(known, 1)
    for depth in range(2, deepest + 1):
        finer = _cut(known, depth)
        if len(_worthy(finer)) > most:
            break
        cut = finer
    kept = sorted(_worthy(cut), key=lambda group: group.cost, reverse=True)[:most]
    shown = set(map(id, kept))
    rest = [group for group in cut if id(group) not in shown]
    return sorted(kept, key=lambda group: _natural(group.name)), _sum(rest) if rest else None


def kinds(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The layers with the numbers in their names as "*", so that repeated blocks are summed."""
    return [
        {
            **layer,
            "name": ".".join(
                "*" if part.isdecimal() else part for part in str(layer.get("name", "")).split(".")
            ),
        }
        for layer in layers
    ]


def _worthy(found: Sequence[Group]) -> list[Group]:
    worth = WORTH_A_ROW * sum(group.cost for group in found)
    return [group for group in found if group.cost >= worth]


def _cut(layers: Sequence[Mapping[str, Any]], depth: int) -> list[Group]:
    found: dict[str, Group] = {}
    modules = any("." in str(layer.get("name", "")) for layer in layers)
    for layer in layers:
        parts = str(layer.get("name", "")).split(".")
        name = ".".join(parts[:depth]) if len(parts) > 1 or not modules else NO_MODULE
        group = found.setdefault(name, Group(name))
        phase, ms = layer["phase"], float(layer.get("ms") or 0.0)
        group.ms[phase] += ms
        for kind in ("precision", "bound"):
            key = (phase, kind, str(layer.get(kind, "")))
            group.spent[key] = group.spent.get(key, 0.0) + ms
    return list(found.values())


def _sum(rest: Sequence[Group]) -> Group:
    total = Group(f"{len(rest)} {'other' if len(rest) == 1 else 'others'}")
    for group in rest:
        for phase, ms in group.ms.items():
            total.ms[phase] += ms
    return total


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Names in the order of people: layer.2 before layer.10, and what has no module last."""
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split(".")]
    return [(2, 0, "")] if name == NO_MODULE else parts
