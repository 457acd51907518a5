"""The front of a search: accepted candidates that no other beats in speed, size and quality at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openglm.bundle.manifest import Candidate, Manifest
from openglm.passes.recipe import toml
from openglm.report import story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, breakable, copyable, table

Costs = tuple[float, float, float]

LEAST = 1e-4
"""Losses below it are told as such: a few hundred samples cannot tell them."""


def front(candidates: Sequence[Candidate]) -> list[int]:
    """The places in `candidates` of those on the front, the fastest first."""
    known = {place: costs for place, item in enumerate(candidates) if (costs := _costs(item)) is not None}
    kept = [
        place
        for place, costs in known.items()
        if not any(_dominates(other, costs) for other in known.values())
    ]
    return sorted(kept, key=lambda place: (known[place], place))


def _costs(item: Candidate) -> Costs | None:
    """Time, size and loss of quality, each the better the lower; None for what cannot be had."""
    if item.outcome not in ("chosen", "accepted") or not item.speedup or not item.size_bytes:
        return None
    if item.quality is None or not math.isfinite(item.speedup) or not math.isfinite(item.quality.value):
        return None
    value = item.quality.value
    return 1 / item.speedup, float(item.size_bytes), -value if item.quality.higher_is_better else value


def _dominates(one: Costs, other: Costs) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def show(manifest: Manifest) -> list[Markup]:
    """Its heading and table, with the recipes; nothing where there is no choice."""
    places = front(manifest.candidates)
    if len(places) < 2:
        return []
    metric = manifest.before.quality.metric
    heads = [
        Cell("Candidate"),
        Cell("Speed", "number"),
        Cell("Size", "number"),
        Cell(f"{metric.capitalize()} lost", "number"),
        Cell("Fits"),
    ]
    rows = [_row(place + 1, manifest.candidates[place], manifest) for place in places]
    return [
        tag("h3", "The front: what else could be had"),
        tag(
            "p",
            "None of these is beaten by another in speed, size and quality at once. To have one, copy its "
            "recipe into a file and give it as ",
            tag("code", "--recipe", class_="whole"),
            " with the command below.",
            class_="note",
        ),
        table(
            "The fastest first; whether one fits the device is predicted",
            heads,
            rows,
            "front stack",
        ),
    ]


def _row(number: int, item: Candidate, manifest: Manifest) -> list[Cell]:
    chosen = tag("span", "the one chosen", class_="chip chosen") if item.outcome == "chosen" else None
    recipe = (
        tag("details", tag("summary", "Its recipe"), copyable(toml(item.recipe))) if item.recipe else None
    )
    said = [chosen, tag("span", story.trained(item), class_="reason") if story.trained(item) else None]
    name: Content = [
        tag("span", number, class_="index"),
        tag("span", tag("code", breakable(item.code)), said, recipe),
    ]
    return [
        Cell(name, "candidate"),
        Cell(units.times(item.speedup), "number"),
        Cell(units.size(item.size_bytes), "number"),
        Cell(lost(item, manifest), "number"),
        Cell({True: "yes", False: "no", None: units.NONE}[item.fits]),
    ]


def lost(item: Candidate, manifest: Manifest) -> str:
    """How much of the quality a candidate loses, in words where that is nothing or less."""
    loss = item.loss
    if loss is None:
        if item.quality is None:
            return units.NONE
        loss = manifest.before.quality.value - item.quality.value
        loss = loss if item.quality.higher_is_better else -loss
    if not loss:
        return "nothing"
    much = units.small(abs(loss)) if abs(loss) >= LEAST else f"under {LEAST:g}"
    return f"{much} gained" if loss < 0 else much
