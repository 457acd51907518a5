"""The section on the search's own time: what it went into, and when there was something to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

from openglm.bundle.manifest import Manifest
from openglm.report import plots, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, section, table

KINDS = {
    "training": "training",
    "pruning": "pruning, factorising, repairing",
    "exporting": "exporting to ONNX",
    "quantizing": "fusing and quantizing",
    "judging": "judging on data",
    "measuring": "measuring latency",
    "waiting": "waiting while another measures",
    "other": "other: loading, planning, sensitivity",
}
"""What seconds are spent on, in the order shown."""
OTHER = "other"


def spent(manifest: Manifest) -> dict[str, float]:
    """Seconds by kind, of all candidates together, and "other": what else the search took.

    Empty where candidates do not say. Where several were tried side by side there is no "other": their
    seconds together may be more than what passed.
    """
    kinds = dict.fromkeys([*KINDS, *(kind for item in manifest.candidates for kind in item.spent)])
    found = {kind: sum(item.spent.get(kind, 0.0) for item in manifest.candidates) for kind in kinds}
    if any(found.values()) and manifest.elapsed_s is not None:
        found[OTHER] += max(0.0, manifest.elapsed_s - sum(found.values()))
    return {kind: seconds for kind, seconds in found.items() if math.isfinite(seconds) and seconds > 0}


def sentences(manifest: Manifest) -> list[str]:
    """What the time went into, and when the first recipe that pays was there."""
    found = spent(manifest)
    total = sum(found.values())
    if not total:
        return []
    words = [("training", ("training",)), ("judging and measuring", ("judging", "measuring"))]
    words += [("waiting", ("waiting",))]
    shares = [
        (text, units.percent(sum(found.get(kind, 0.0) for kind in kinds) / total))
        for text, kinds in words
        if any(kind in found for kind in kinds)
    ]
    told = ", ".join(
        f"{text}{'' if place else ' took'} {share}" for place, (text, share) in enumerate(shares)
    )
    said = [f"Of {units.duration(total)}, {told}." if told else f"It took {units.duration(total)}."]
    elapsed = manifest.elapsed_s
    if elapsed is not None and total > 1.01 * elapsed:
        said.append(f"Candidates were tried side by side: {units.duration(elapsed)} passed.")
    if (first := _first(manifest)) is not None:
        number, seconds = first
        candidate = manifest.candidates[number - 1]
        said.append(
            f"The first recipe that pays was there after {units.duration(seconds)} of trying: "
            f"number {number}, {candidate.code}."
        )
    return said


def _first(manifest: Manifest) -> tuple[int, float] | None:
    """The number of the first accepted recipe, and the seconds spent on recipes until then."""
    seconds = 0.0
    for number, item in enumerate(manifest.candidates, 1):
        if not item.recipe:
            continue
        seconds += item.seconds
        if item.outcome in ("chosen", "accepted"):
            return number, seconds
    return None


def show(manifest: Manifest) -> Markup | None:
    """The section; nothing where candidates do not say what their time went into."""
    found = spent(manifest)
    if not found:
        return None
    aside = [
        badge("measured", manifest.host.processor),
        tag("p", "Seconds of all candidates together; finding out how tender each part is counts as other."),
    ]
    return section(
        "time",
        "Where the search’s time went",
        aside,
        tag("p", " ".join(sentences(manifest))),
        _bar(found),
        _table(found),
    )


def _bar(found: Mapping[str, float]) -> Markup:
    total = sum(found.values())
    shares = [(seconds / total, _style(kind)) for kind, seconds in found.items()]
    description = ", ".join(f"{kind} {units.percent(seconds / total)}" for kind, seconds in found.items())
    return plots.stack("The search’s time by kind", f"{description}.", shares)


def _style(kind: str) -> str:
    return f"kind-{kind}" if kind in KINDS else "kind-other"


def _table(found: Mapping[str, float]) -> Markup:
    total = sum(found.values())
    heads = [Cell("What"), Cell("Time", "number"), Cell("Share", "number")]
    rows = []
    for kind, seconds in found.items():
        name: Content = [tag("span", class_=f"swatch {_style(kind)}"), KINDS.get(kind, kind)]
        rows.append(
            [
                Cell(name),
                Cell(units.duration(seconds), "number"),
                Cell(units.percent(seconds / total), "number"),
            ]
        )
    return table("By kind, in the bar’s order", heads, rows, "spent")
