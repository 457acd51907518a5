"""The section on all that was tried: the plot, the front, and a table with the reason for each outcome."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from openglm.bundle.manifest import Candidate, Manifest
from openglm.report import front, scale, story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, breakable, section, table
from openglm.report.scatter import CROWD, Frame, Point, scatter

SIGNS = {"chosen": "◉", "accepted": "○", "refused": "◇", "failed": "✕", "not tried": "–"}
FRONT = "●"
WIDE, NARROW = (760, 420), (360, 400)

FOLD = 12
"""With more candidates than these, those that cannot be had are behind a line that opens."""


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
        front.show(manifest),
        _tables(manifest),
        tag("p", "Of every recipe: ", " ".join(shared), class_="note") if shared else None,
    )


def short_codes(codes: Sequence[str]) -> list[str]:
    """Codes without the steps that all longer ones have, which tell none from another."""
    steps = [code.split(" + ") for code in codes]
    long = [code for code in steps if len(code) > 1]
    shared = set(long[0]).intersection(*long) if len(long) > 1 else set()
    short = [[step for step in code if step not in shared] for code in steps]
    return [" + ".join(kept or code) for kept, code in zip(short, steps, strict=True)]


def _plot(manifest: Manifest) -> Markup:
    candidates, original = manifest.candidates, manifest.before.quality
    labels = short_codes([item.code for item in candidates])
    points, missing = [], []
    ahead = front.front(candidates)
    for number, (item, label) in enumerate(zip(candidates, labels, strict=True), 1):
        point = _point(number, item, label, number - 1 in ahead)
        if point is None or not scale.drawable(original.value):
            missing.append(number)
        else:
            points.append(point)
    absent = f"Not in the plot, for want of figures: {', '.join(map(str, missing))}." if missing else None
    if not points:
        return tag("p", absent, class_="note")
    title = "Speed and quality of every candidate"
    told = [point for point in points if point.front or len(points) <= CROWD]
    description = " ".join(point.text for point in told)
    if len(told) < len(points):
        description += f" {units.count(len(points) - len(told), 'other')}, in the tables below."
    frames = [
        Frame(original.metric, original.value, story.allowed(manifest), *place, name)
        for place, name in ((WIDE, "wide"), (NARROW, "narrow"))
    ]
    return tag(
        "figure",
        [scatter(points, frame, title, description) for frame in frames],
        tag(
            "figcaption",
            _legend(points),
            tag(
                "p",
                "Farther right is faster, higher is better"
                if _upwards(manifest)
                else "Farther right is faster",
                ". The area of a mark is the size of the model; solid lines are the original, "
                "numbers are the table’s. ",
                absent,
            ),
        ),
        class_="scatter",
    )


def _upwards(manifest: Manifest) -> bool:
    return manifest.before.quality.higher_is_better


def _legend(points: Sequence[Point]) -> Markup:
    outcomes = {point.outcome for point in points}
    shown = [outcome_chip(outcome) for outcome in SIGNS if outcome in outcomes]
    return tag("p", shown, _on_front() if any(point.front for point in points) else None, class_="legend")


def _on_front() -> Markup:
    sign = tag("span", FRONT, class_="sign", aria_hidden="true")
    return tag("span", sign, "on the front", class_="chip accepted")


def outcome_chip(outcome: str) -> Markup:
    """An outcome by its sign and its word."""
    sign = tag("span", SIGNS[outcome], class_="sign", aria_hidden="true")
    return tag("span", sign, outcome, class_=f"chip {outcome.replace(' ', '-')}")


def _point(number: int, item: Candidate, label: str, ahead: bool) -> Point | None:
    if item.speedup is None or item.quality is None:
        return None
    if not (scale.drawable(item.speedup) and scale.drawable(item.quality.value)):
        return None
    outcome = f"{item.outcome}, on the front" if ahead else item.outcome
    text = (
        f"{number} {item.code}, {outcome}: {units.times(item.speedup)} the speed, "
        f"{item.quality.metric} {units.score(item.quality.value)}, {units.size(item.size_bytes)}."
    )
    size = float(item.size_bytes or 0)
    return Point(number, label, item.speedup, item.quality.value, size, item.outcome, text, ahead)


def _tables(manifest: Manifest) -> list[Markup]:
    """Every candidate; of many, first those that can be had, and the others where a line is opened."""
    every = list(enumerate(manifest.candidates, 1))
    if len(every) <= FOLD:
        return [_table("Every candidate, in the order tried; whether it fits is predicted", every, manifest)]
    had = [pair for pair in every if pair[1].outcome in ("chosen", "accepted")]
    others = [pair for pair in every if pair[1].outcome not in ("chosen", "accepted")]
    outcomes = [item.outcome for _, item in others]
    counts = [f"{outcomes.count(name):,} {name}" for name in SIGNS if name in outcomes]
    shown = []
    if had:
        shown.append(_table("Accepted, in the order tried; whether it fits is predicted", had, manifest))
    if others:
        told = _table("All others, in the order tried", others, manifest)
        shown.append(
            tag("details", tag("summary", f"The others: {', '.join(counts)}"), told, class_="others")
        )
    return shown


def _table(caption: str, pairs: Sequence[tuple[int, Candidate]], manifest: Manifest) -> Markup:
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
    ahead = front.front(manifest.candidates)
    rows = [_row(number, item, shared, ahead) for number, item in pairs]
    return table(caption, heads, rows, "tried stack")


def _row(number: int, item: Candidate, shared: Sequence[str], ahead: Collection[int]) -> list[Cell]:
    fits = {True: "yes", False: "no", None: units.NONE}[item.fits]
    name: Content = [
        tag("span", number, class_="index"),
        tag(
            "span",
            tag("code", breakable(item.code)),
            tag("span", _sentence(story.trained(item)), item.reason, class_="reason"),
            _notes([note for note in item.notes if note not in shared]),
        ),
    ]
    return [
        Cell(name, "candidate"),
        Cell([outcome_chip(item.outcome), _on_front() if number - 1 in ahead else None]),
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


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}. " if text else ""


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    items = [tag("li", note) for note in notes]
    return tag("details", tag("summary", units.count(len(notes), "note")), tag("ul", items))
