"""The section on all that was tried: the plot, and a table with the reason for each outcome."""

from __future__ import annotations

from collections.abc import Sequence

from openglm.bundle.manifest import Candidate, Manifest
from openglm.report import scale, story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, section, table
from openglm.report.scatter import Frame, Point, scatter

SIGNS = {"chosen": "◉", "accepted": "○", "refused": "◇", "failed": "✕", "not tried": "–"}
WIDE, NARROW = (760, 420), (360, 400)


def show(manifest: Manifest) -> Markup:
    """The section."""
    candidates = manifest.candidates
    seconds = sum(item.seconds for item in candidates)
    aside = [
        badge("measured", manifest.host.processor),
        tag(
            "p",
            f"{units.count(len(candidates), 'candidate')} in {units.duration(seconds)}. Each was measured in "
            "turn with the original: speeds compare across rows, milliseconds only within one.",
        ),
    ]
    if not candidates:
        return section("tried", "What was tried", None, tag("p", "Nothing was tried."))
    shared = _shared(candidates)
    return section(
        "tried",
        "What was tried",
        aside,
        _plot(manifest),
        _table(manifest),
        tag("p", "Of every recipe: ", " ".join(shared), class_="note") if shared else None,
    )


def short_codes(codes: Sequence[str]) -> list[str]:
    """Codes without the steps that all longer ones begin with, which tell none from another."""
    steps = [code.split(" + ") for code in codes]
    long = [code for code in steps if len(code) > 1]
    shared = 0
    while long and all(len(code) > shared + 1 and code[shared] == long[0][shared] for code in long):
        shared += 1
    return [" + ".join(code[shared:] if len(code) > 1 else code) for code in steps]


def _plot(manifest: Manifest) -> Markup:
    candidates, original = manifest.candidates, manifest.before.quality
    labels = short_codes([item.code for item in candidates])
    points, missing = [], []
    for number, (item, label) in enumerate(zip(candidates, labels, strict=True), 1):
        point = _point(number, item, label)
        if point is None or not scale.drawable(original.value):
            missing.append(number)
        else:
            points.append(point)
    told = f"Not in the plot, for want of figures: {', '.join(map(str, missing))}." if missing else None
    if not points:
        return tag("p", told, class_="note")
    title = "Speed and quality of every candidate"
    description = " ".join(point.text for point in points)
    frames = [
        Frame(original.metric, original.value, story.allowed(manifest), *place, name)
        for place, name in ((WIDE, "wide"), (NARROW, "narrow"))
    ]
    return tag(
        "figure",
        [scatter(points, frame, title, description) for frame in frames],
        tag(
            "figcaption",
            _legend({point.outcome for point in points}),
            tag(
                "p",
                "Farther right is faster, higher is better"
                if _upwards(manifest)
                else "Farther right is faster",
                ". The area of a mark is the size of the model; solid lines are the original, "
                "numbers are the table’s. ",
                told,
            ),
        ),
        class_="scatter",
    )


def _upwards(manifest: Manifest) -> bool:
    return manifest.before.quality.higher_is_better


def _legend(outcomes: set[str]) -> Markup:
    shown = [outcome for outcome in SIGNS if outcome in outcomes]
    return tag("p", [outcome_chip(outcome) for outcome in shown], class_="legend")


def outcome_chip(outcome: str) -> Markup:
    """An outcome by its sign and its word."""
    sign = tag("span", SIGNS[outcome], class_="sign", aria_hidden="true")
    return tag("span", sign, outcome, class_=f"chip {outcome.replace(' ', '-')}")


def _point(number: int, item: Candidate, label: str) -> Point | None:
    if item.speedup is None or item.quality is None:
        return None
    if not (scale.drawable(item.speedup) and scale.drawable(item.quality.value)):
        return None
    text = (
        f"{number} {item.code}, {item.outcome}: {units.times(item.speedup)} the speed, "
        f"{item.quality.metric} {units.score(item.quality.value)}, {units.size(item.size_bytes)}."
    )
    return Point(
        number, label, item.speedup, item.quality.value, float(item.size_bytes or 0), item.outcome, text
    )


def _table(manifest: Manifest) -> Markup:
    heads = [
        Cell("Candidate"),
        Cell("Outcome"),
        Cell("Size", "number"),
        Cell("Speed", "number"),
        Cell("Latency", "number"),
        Cell(manifest.before.quality.metric.capitalize(), "number"),
        Cell("Fits"),
        Cell("Took", "number"),
    ]
    shared = _shared(manifest.candidates)
    rows = [_row(number, item, shared) for number, item in enumerate(manifest.candidates, 1)]
    return table(
        "Every candidate, in the order tried; whether it fits the device is predicted",
        heads,
        rows,
        "tried stack",
    )


def _row(number: int, item: Candidate, shared: Sequence[str]) -> list[Cell]:
    fits = {True: "yes", False: "no", None: units.NONE}[item.fits]
    name: Content = [
        tag("span", number, class_="index"),
        tag(
            "span",
            tag("code", _breakable(item.code)),
            tag("span", item.reason, class_="reason"),
            _notes([note for note in item.notes if note not in shared]),
        ),
    ]
    return [
        Cell(name, "candidate"),
        Cell(outcome_chip(item.outcome)),
        Cell(units.size(item.size_bytes), "number"),
        Cell(units.times(item.speedup), "number"),
        Cell(_latency(item), "number"),
        Cell(units.score(item.quality.value if item.quality else None), "number"),
        Cell(fits),
        Cell(units.duration(item.seconds) if item.seconds else units.NONE, "number"),
    ]


def _shared(candidates: Sequence[Candidate]) -> list[str]:
    """Notes that every recipe with a model gave; told once, not in every row."""
    given = [item.notes for item in candidates if item.recipe and item.size_bytes is not None]
    return [note for note in given[0] if all(note in notes for notes in given)] if len(given) > 1 else []


def _latency(item: Candidate) -> Content:
    if item.timing is None:
        return units.NONE
    lines = [units.spread(item.timing.p10_ms, item.timing.p90_ms)]
    if item.original is not None and item.recipe:
        lines.append(f"original {units.ms(item.original.median_ms)}")
    return [units.ms(item.timing.median_ms), *(tag("span", line, class_="spread") for line in lines)]


def _breakable(code: str) -> list[Content]:
    """A code that may break after each of its parts: the longest are wider than a phone."""
    parts = code.replace("_", "_\0").split("\0")
    return [part if index == 0 else [tag("wbr"), part] for index, part in enumerate(parts)]


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    items = [tag("li", note) for note in notes]
    return tag("details", tag("summary", units.count(len(notes), "note")), tag("ul", items))
