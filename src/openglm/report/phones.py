"""The page on one model and many phones: where it runs, as a share of a market, and how."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from openglm.device.fit import Verdict
from openglm.device.market import Entry, Survey
from openglm.report import plots, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.page import document
from openglm.report.parts import Cell, badge, copyable, section, table


def render(survey: Survey, command: str) -> str:
    """The page as HTML that needs nothing from anywhere else."""
    sections = [_market(survey), _latency(survey), _lasting(survey), _record(command)]
    return document(
        f"{survey.model} on {len(survey.entries)} devices",
        _opening(survey),
        [each for each in sections if each is not None],
        tag("p", "Made by openglm. Every figure is predicted. This page loads nothing and sends nothing."),
    )


def _opening(survey: Survey) -> Markup:
    runs = len(survey.running)
    lead = f"{units.count(runs, 'device')} within all limits, {len(survey.entries) - runs} not."
    if survey.unknown:
        lead += f" For {units.percent(survey.unknown)} of the market there is no profile."
    return tag(
        "header",
        tag("div", tag("p", "openglm fit, all devices", class_="eyebrow"), class_="top"),
        tag("h1", survey.headline),
        tag("p", lead, class_="lead"),
        class_="opening",
    )


def _market(survey: Survey) -> Markup:
    runs, unknown = survey.share, survey.unknown
    shares = [(runs, "kind-runs"), (max(1 - runs - unknown, 0.0), "kind-misses"), (unknown, "kind-other")]
    names = ["runs", "does not run", "no profile"]
    told = [
        [tag("span", class_=f"swatch {kind}", aria_hidden="true"), f"{name} {units.percent(share)}"]
        for (share, kind), name in zip(shares, names, strict=True)
        if share > 0
    ]
    what = "Shares are those of the list." if survey.weighted else "Every device counts the same."
    plot = plots.stack("The share of devices that run it", "; ".join(map(_plain, told)), shares)
    legend = tag("figcaption", [tag("span", item) for item in told], class_="legend")
    return section("market", "Where it runs", tag("p", what), tag("figure", plot, legend, class_="share"))


def _plain(told: Sequence[Content]) -> str:
    return str(told[-1])


def _latency(survey: Survey) -> Markup:
    """A row for each device, its latency as a bar on a logarithmic scale."""
    known = [(entry, entry.verdict) for entry in survey.entries if entry.verdict]
    values = [verdict.limit("latency").predicted for _, verdict in known]
    budget = next((verdict.limit("latency").budget for _, verdict in known), None)
    drawn = [value for value in [*values, *([budget] if budget else [])] if value > 0]
    low, high = min(drawn, default=1.0) / 1.5, max(drawn, default=1.0)

    def place(ms: float) -> float:
        return math.log(max(ms, low) / low) / math.log(high / low)

    heads = [Cell("Device"), Cell("Latency", "number"), Cell("", "chart"), Cell("Memory", "number")]
    heads += [Cell("Energy", "number"), Cell("Held", "number")]
    heads += [Cell("Share", "number")] if survey.weighted else []
    rows = [_row(entry, place, budget, survey.weighted) for entry in survey.entries]
    line = f"; the line is the limit of {units.ms(budget)}" if budget else ""
    aside = [
        badge("predicted", "each device"),
        tag("p", f"Bars of latency are on a logarithmic scale{line}. Held: runs a second that it keeps up."),
    ]
    return section(
        "devices",
        "Device by device",
        aside,
        table("Those that it fits first, the fastest at the top", heads, rows, "phones stack"),
    )


def _row(entry: Entry, place: Callable[[float], float], budget: float | None, weighted: bool) -> list[Cell]:
    share = [Cell(f"{100 * entry.share:.1f}{units.NBSP}%", "number")] if weighted else []
    kind, mark = ("ok", "✓") if entry.fits else ("over", "✗")
    text = "fits" if entry.fits else f"misses {entry.reason}" if entry.verdict else entry.reason
    chip = tag("span", tag("span", mark, class_="sign", aria_hidden="true"), text, class_=f"chip {kind}")
    name = Cell([entry.device.title, tag("span", chip, class_="bound")])
    if entry.verdict is None:
        none = [Cell(units.NONE, "number")] * 3
        return [name, Cell(units.NONE, "number"), Cell(units.NONE, "chart"), *none, *share]
    verdict = entry.verdict
    ms = verdict.limit("latency").predicted
    bar = plots.track([(place(ms), "after" if entry.fits else "over")], place(budget) if budget else None)
    return [
        name,
        Cell(units.ms(ms), "number"),
        Cell(bar, "chart"),
        Cell(units.size(verdict.limit("memory").predicted * 1e6), "number"),
        Cell(f"{units.figure(verdict.limit('energy').predicted)}{units.NBSP}mJ", "number"),
        Cell(f"{units.figure(_held(verdict))}/s", "number"),
        *share,
    ]


def _held(verdict: Verdict) -> float:
    return verdict.sustained.most_per_s if verdict.sustained else verdict.rate.sustained_per_s


def _lasting(survey: Survey) -> Markup | None:
    """What a lasting load comes to, where one was asked about."""
    known = [(entry, entry.verdict.sustained) for entry in survey.entries if entry.verdict]
    found = [(entry, lasting) for entry, lasting in known if lasting]
    if not found:
        return None
    load = found[0][1]
    asked = f"{units.figure(load.asked_per_s)} a second" if load.asked_per_s else "back to back"
    heads = [Cell("Device"), Cell("Throttles after", "number"), Cell("Latency at the end", "number")]
    heads += [Cell("Held", "number"), Cell("Power", "number"), Cell("Battery", "number")]
    rows = [
        [
            Cell(entry.device.title),
            Cell(
                "no"
                if lasting.throttles_after_s is None
                else f"{lasting.throttles_after_s / 60:.1f}{units.NBSP}min",
                "number",
            ),
            Cell(units.ms(lasting.end_ms), "number"),
            Cell(f"{units.figure(lasting.most_per_s)}/s", "number"),
            Cell(f"{units.figure(lasting.power_w)}{units.NBSP}W", "number"),
            Cell(
                f"{units.figure(lasting.battery_hours)}{units.NBSP}h"
                if lasting.battery_hours
                else units.NONE,
                "number",
            ),
        ]
        for entry, lasting in found
    ]
    return section(
        "heat",
        "Heat and battery",
        [
            badge("predicted", "each device"),
            tag("p", f"{units.figure(load.duration_s / 60)} minutes, {asked}."),
        ],
        table("What the load comes to", heads, rows, "stack"),
    )


def _record(command: str) -> Markup:
    return section("record", "How it was made", None, copyable(command))
