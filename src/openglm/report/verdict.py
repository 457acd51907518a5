"""The section on the verdicts: does it fit the device, before and after, as predicted."""

from __future__ import annotations

from typing import Any

from openglm.bundle.manifest import Manifest
from openglm.report import plots, story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, facts, section, table

Verdict = dict[str, Any]


def show(manifest: Manifest) -> Markup:
    """The section."""
    before, after = manifest.verdict_before, manifest.verdict_after
    device = manifest.device.get("name", "the device")
    title = manifest.device.get("title")
    aside = [
        badge("predicted", str(device)),
        tag("p", title, ". " if title else None, _by(after)),
    ]
    return section(
        "verdict",
        "Does it fit?",
        aside,
        tag("div", _card("Before", before), _card("After", after), class_="pair"),
        _limits(before, after, str(device)),
        _rest(before, after),
    )


def _by(verdict: Verdict) -> str:
    """How the figures were come by, without the device's name, which stands above."""
    text = str(verdict.get("predicted_by", ""))
    _, _, how = text.partition(" by ")
    return f"By {how}." if how else f"{text}." if text else ""


def _card(when: str, verdict: Verdict) -> Markup:
    fits = verdict.get("fits")
    kind, mark, text = ("ok", "✓", "fits") if fits else ("over", "✗", "does not fit")
    if fits is None:
        kind, mark, text = "unknown", "?", "not known"
    return tag(
        "div",
        tag("h3", when),
        tag("p", _state(kind, mark, text), class_="state"),
        tag("p", verdict.get("advice", ""), class_="advice"),
        class_=f"card {kind}",
    )


def _state(kind: str, mark: str, text: str) -> Markup:
    return tag("span", tag("span", mark, class_="sign", aria_hidden="true"), text, class_=f"chip {kind}")


def _limits(before: Verdict, after: Verdict, device: str) -> Markup | None:
    earlier = {limit["name"]: limit for limit in before.get("limits", [])}
    later = {limit["name"]: limit for limit in after.get("limits", [])}
    names = list(dict.fromkeys([*earlier, *later]))
    if not names:
        return None
    heads = [
        Cell("Limit"),
        Cell("Before", "number key before"),
        Cell("After", "number key after"),
        Cell("Budget", "number"),
        Cell("Both, and the budget", "chart"),
    ]
    rows = [_limit(name, earlier.get(name), later.get(name)) for name in names]
    return table(
        f"Limits, predicted for {device}; the line across the bars is the budget", heads, rows, "limits stack"
    )


def _limit(name: str, before: Verdict | None, after: Verdict | None) -> list[Cell]:
    given = [limit for limit in (before, after) if limit is not None]
    budget = next((limit["budget"] for limit in reversed(given) if limit.get("budget") is not None), None)
    most = max([*(limit["predicted"] for limit in given), budget or 0.0], default=0.0) * 1.04 or 1.0
    found = [
        (limit["predicted"] / most, kind) for limit, kind in ((before, "before"), (after, "after")) if limit
    ]
    bound = tag("span", given[-1].get("bound", ""), class_="bound")
    return [
        Cell([name.capitalize(), bound]),
        Cell(_amount(before), "number key before"),
        Cell(_amount(after), "number key after"),
        Cell(
            "no limit" if budget is None else story.amount({**given[-1], "budget": budget}, "budget"),
            "number",
        ),
        Cell(plots.track(found, None if budget is None else budget / most), "chart"),
    ]


def _amount(limit: Verdict | None) -> Content:
    if limit is None:
        return units.NONE
    text = story.amount(limit, "predicted")
    if limit.get("budget") is None:
        return text
    if limit["ok"]:
        return [text, _state("ok", "✓", "within")]
    over = units.ratio(limit["predicted"], limit["budget"])
    return [text, _state("over", "✗", f"{units.percent(over - 1)} over" if over else "over")]


def _rest(before: Verdict, after: Verdict) -> Markup:
    """What a verdict says besides its limits."""
    pairs: list[tuple[str, Content]] = []

    def compare(term: str, texts: tuple[str | None, str | None], unit: str = "") -> None:
        known = [text for text in texts if text]
        if known:
            pairs.append((term, " → ".join(dict.fromkeys(known)) + unit))

    compare("Back to back, cool", (_rate(before, "burst_per_s"), _rate(after, "burst_per_s")), " a second")
    compare("Sustained", (_rate(before, "sustained_per_s"), _rate(after, "sustained_per_s")), " a second")
    compare("On one charge", (_charge(before), _charge(after)), " runs")
    compare("Tokens a second, read and written", (_tokens(before), _tokens(after)))
    others = [unit for unit in after.get("units", []) if unit["name"] != after.get("unit")]
    if others:
        pairs.append(("Other units, after", ", ".join(map(_unit, others))))
    compare("Unit and threads", (_where(before), _where(after)))
    sizes = ", ".join(f"{name} {size}" for name, size in after.get("dims", {}).items())
    compare("For inputs of", (sizes, None))
    if unknown := after.get("unknown_operators"):
        pairs.append(("Unknown operators, counted by their bytes", ", ".join(unknown)))
    return facts(pairs)


def _rate(verdict: Verdict, key: str) -> str | None:
    value = (verdict.get("rate") or {}).get(key)
    return None if value is None else units.figure(value)


def _charge(verdict: Verdict) -> str | None:
    value = verdict.get("inferences_per_charge")
    return None if value is None else f"{value:,}"


def _tokens(verdict: Verdict) -> str | None:
    rate = verdict.get("tokens_per_s")
    return rate and f"{units.figure(rate['prefill_per_s'])} and {units.figure(rate['decode_per_s'])}"


def _unit(unit: dict[str, Any]) -> str:
    latency = unit.get("latency_ms")
    return f"{unit['name']} {'cannot (precision)' if latency is None else units.ms(latency)}"


def _where(verdict: Verdict) -> str | None:
    if "unit" not in verdict:
        return None
    return f"{verdict['unit']}, {units.count(verdict.get('threads', 1), 'thread')}"
