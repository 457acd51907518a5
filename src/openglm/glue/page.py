"""The page on a benchmark, a function of its result alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openglm.glue.bench import MODEL, Judged, Result, Side
from openglm.glue.tasks import TASKS
from openglm.report import plots, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.page import document
from openglm.report.parts import Cell, badge, section, table
from openglm.report.plots import Bar

Figure = Callable[[Side], float | None]
Text = Callable[[float], str]


def render(result: Result) -> str:
    """One HTML page that needs nothing from anywhere else."""
    model = result.sides[0]
    where = f"{result.host.processor} with {result.host.engine}"
    opening = tag(
        "header",
        tag("div", tag("p", "openglm bench glue", class_="eyebrow"), class_="top"),
        tag("h1", f"{result.model}: {points(model.average)} on average of {_tasks(result)}"),
        tag("p", standing(result), class_="lead"),
        badge("measured", where),
        class_="opening",
    )
    footer = tag(
        "p",
        f"Data: {result.data}. Scores are GLUE’s official metrics on dev data, times 100. "
        "This page loads nothing and sends nothing.",
    )
    sections = [_scores(result, where)]
    if len(result.sides) > 1:
        sections.append(_beside(result, where))
    return document(f"{result.model} on GLUE", opening, sections, footer)


def points(value: float) -> str:
    """A score as GLUE's tables have it, times 100."""
    return f"{100 * value:.1f}".replace("-", "−")


def standing(result: Result) -> str:
    """What the figures come to, in a sentence or two."""
    others = result.sides[1:]
    if not others:
        return f"{units.ms(result.sides[0].latency.median_ms)} for a row, the median."
    faster = [f"{units.times(side.speedup)} as fast as a network of {side.name}’s shape" for side in others]
    return f"It is {' and '.join(faster)}, measured in turn on rows of the same lengths."


def _tasks(result: Result) -> str:
    return units.count(len(result.tasks), "task")


def _comparable(result: Result) -> bool:
    """Whether all tasks were judged that published averages are over; many leave WNLI out."""
    return {task.name for task in TASKS.values()} - {judged.task for judged in result.tasks} <= {"WNLI"}


def _scores(result: Result, where: str) -> Markup:
    others = result.sides[1:]
    aside = [
        badge("measured", where),
        tag(
            "p",
            f"One row at a time, at its own length, {units.count(result.host.threads, 'thread')}; "
            "the median and the 90th percentile. A task with two figures counts as their mean.",
        ),
    ]
    heads = [Cell("Task"), Cell("Figures"), Cell("Score", "number"), Cell("Rows", "number")]
    heads += [Cell("Latency", "number"), *(Cell(f"{side.name} latency", "number") for side in others)]
    rows = [_row(judged, others) for judged in result.tasks]
    average = [Cell("Average"), Cell(units.NONE), Cell(points(result.sides[0].average), "number")]
    average += [Cell(units.NONE, "number"), *(_latency(side) for side in result.sides)]
    return section("scores", "Scores", aside, table("Dev data", heads, [*rows, average]))


def _row(judged: Judged, others: Sequence[Side]) -> list[Cell]:
    figures = ", ".join(f"{name} {points(value)}" for name, value in judged.scores.items())
    rows = f"{judged.rows:,}" if judged.whole else f"first {judged.rows:,}"
    timings = [judged.latency[MODEL], *(judged.latency[side.name] for side in others)]
    return [
        Cell(judged.task),
        Cell(figures),
        Cell(points(judged.score), "number"),
        Cell(rows, "number"),
        *(Cell(f"{units.ms(each.median_ms)}, {units.ms(each.p90_ms)}", "number") for each in timings),
    ]


def _latency(side: Side) -> Cell:
    return Cell(f"{units.ms(side.latency.median_ms)}, {units.ms(side.latency.p90_ms)}", "number")


def _beside(result: Result, where: str) -> Markup:
    aside = [
        badge("measured", where),
        tag(
            "p",
            "The other networks have the shapes of the named models and random weights, on which neither "
            "latency nor memory depends. Their scores are cited, not measured here.",
        ),
    ]
    sides = result.sides
    wanted: list[tuple[str, str, Figure, Text]] = [
        ("Latency", "of one row, the median; from the 10th to the 90th percentile", _median, units.ms),
        ("Memory", "in inference, the peak", lambda side: _bytes(side.peak_memory_mb), units.size),
        (
            "Memory to fine-tune",
            "the peak, batches of 32 rows of 128 tokens",
            lambda side: _bytes(side.finetuning_memory_mb),
            units.size,
        ),
        ("Size", "as a file", lambda side: float(side.size_bytes), units.size),
    ]
    if _comparable(result):
        wanted.append(("GLUE average", "of the others cited", lambda side: max(side.average, 0.0), points))
    cards = [_card(*each, sides) for each in wanted]
    names = list(dict.fromkeys(name for side in result.sides for name in side.scores))
    heads = [Cell("Score")]
    heads += [Cell(f"{side.name}{' (cited)' if side.cited else ''}", "number") for side in result.sides]
    rows = [
        [
            Cell(name),
            *(Cell(points(side.scores[name]) if name in side.scores else units.NONE, "number")
              for side in result.sides),
        ]
        for name in names
    ]  # fmt: skip
    own, *others = result.sides
    average = [points(own.average) + ("" if _comparable(result) else f" ({_tasks(result)})")]
    average += [points(side.average) for side in others]
    rows.append([Cell("Average"), *(Cell(each, "number") for each in average)])
    shown = tag("div", [card for card in cards if card is not None], class_="cards")
    title = f"Beside {' and '.join(side.name for side in result.sides[1:])}"
    return section("beside", title, aside, shown, table("Scores, measured and cited", heads, rows))


def _median(side: Side) -> float:
    return side.latency.median_ms


def _bytes(megabytes: float | None) -> float | None:
    return None if megabytes is None else megabytes * 1e6


def _card(
    title: str,
    note: str,
    value: Figure,
    text: Text,
    sides: Sequence[Side],
) -> Markup | None:
    """Bars of one figure of every side that has it; nothing where none has."""
    bars = []
    for side in sides:
        found = value(side)
        if found is not None:
            style = "before" if side.cited else "after"
            ends = (side.latency.p10_ms, side.latency.p90_ms) if value is _median else (None, None)
            bars.append(Bar(side.name, found, text(found), style, *ends))
    if not bars:
        return None
    told = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    head: Content = tag("figcaption", tag("h3", title), tag("p", note))
    return tag("figure", head, plots.bars(title, f"{told}.", bars), class_="card")
