"""The section on the original and the result, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from openglm.bundle.manifest import Figures, Manifest, Timing
from openglm.report import plots, story, units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, section, table
from openglm.report.plots import Bar


def show(manifest: Manifest) -> Markup:
    """The section."""
    before, after = manifest.before, manifest.after
    host = manifest.host
    aside = [
        badge("measured", f"{host.processor} ({host.system})"),
        tag(
            "p",
            f"{host.engine}, {units.count(host.threads, 'thread')}, "
            f"{units.count(after.timing.rounds, 'round')} of each, taken in turn. "
            "Medians; whiskers are the 10th to the 90th percentile.",
        ),
    ]
    cards = [
        _card("Size", _size(before, after), "the model as a file"),
        _card("Latency", _latency(before.timing, after.timing), "of one inference"),
        _card(
            f"Quality: {after.quality.metric}",
            _quality(manifest),
            f"over {units.count(after.quality.samples, 'sample')}",
        ),
    ]
    where = f"All figures, measured on {host.processor} with {host.engine}"
    return section(
        "measured", "Side by side", aside, tag("div", cards, class_="cards"), _table(before, after, where)
    )


def _card(title: str, plot: Markup, note: str) -> Markup:
    return tag("figure", tag("figcaption", tag("h3", title), tag("p", note)), plot, class_="card")


def _size(before: Figures, after: Figures) -> Markup:
    texts = units.size(before.size_bytes), units.size(after.size_bytes)
    bars = [
        Bar("Before", before.size_bytes, texts[0], "before"),
        Bar("After", after.size_bytes, texts[1], "after"),
    ]
    return plots.bars("Size before and after", f"Before {texts[0]}, after {texts[1]}.", bars)


def _latency(before: Timing, after: Timing) -> Markup:
    def bar(label: str, timing: Timing, style: str) -> Bar:
        return Bar(label, timing.median_ms, units.ms(timing.median_ms), style, timing.p10_ms, timing.p90_ms)

    description = f"Before {_spread(before)}; after {_spread(after)}."
    bars = [bar("Before", before, "before"), bar("After", after, "after")]
    return plots.bars("Latency before and after", description, bars)


def _quality(manifest: Manifest) -> Markup:
    before, after = manifest.before.quality, manifest.after.quality
    allowed = story.allowed(manifest)
    texts = units.score(before.value), units.score(after.value)
    told = f" {units.score(allowed)} is allowed, at the dashed line."
    return plots.dumbbell(
        f"{after.metric} before and after",
        f"Before {texts[0]}, after {texts[1]}.{told} The scale does not start at zero.",
        Bar("Before", before.value, texts[0], "before"),
        Bar("After", after.value, texts[1], "after"),
        allowed,
    )


def _spread(timing: Timing) -> str:
    return f"{units.ms(timing.median_ms)} ({units.spread(timing.p10_ms, timing.p90_ms)})"


def _table(before: Figures, after: Figures, caption: str) -> Markup:
    heads = [
        Cell("Figure"),
        Cell("Before", "number key before"),
        Cell("After", "number key after"),
        Cell("Change", "number"),
    ]
    old, new = before.timing, after.timing
    rows = [
        _row("Size", before.size_bytes, after.size_bytes, units.size),
        _row("Latency, median", old.median_ms, new.median_ms, units.ms),
        _row("Latency, 10th percentile", old.p10_ms, new.p10_ms, units.ms),
        _row("Latency, 90th percentile", old.p90_ms, new.p90_ms, units.ms),
        _row("Load", before.load_ms, after.load_ms, units.ms),
        _row("Memory that loading and running adds", _bytes(before), _bytes(after), units.size),
    ]
    # Of qualities a change in percent says nothing: 0 may be the best or the worst.
    earlier, later = before.quality, after.quality
    rows.append(_plain(later.metric.capitalize(), earlier.value, later.value))
    for name in dict.fromkeys([*earlier.details, *later.details]):
        rows.append(
            _plain(
                tag("span", name.replace("_", " "), class_="detail"),
                earlier.details.get(name),
                later.details.get(name),
            )
        )
    return table(caption, heads, rows, "figures")


def _row(
    name: str, old: float | None, new: float | None, write: Callable[[float | None], str]
) -> Sequence[Cell]:
    share = units.NONE
    if old is not None and new is not None and old > 0:
        share = units.signed((new - old) / old)
    return [Cell(name), Cell(write(old), "number"), Cell(write(new), "number"), Cell(share, "number")]


def _plain(name: Content, old: float | None, new: float | None) -> Sequence[Cell]:
    change = units.NONE
    if old is not None and new is not None:
        change = "same" if new == old else f"{'+' if new > old else '−'}{units.small(abs(new - old))}"
    texts = [units.score(old), units.score(new), change]
    return [Cell(name), *(Cell(text, "number") for text in texts)]


def _bytes(figures: Figures) -> float | None:
    return None if figures.peak_memory_mb is None else figures.peak_memory_mb * 1e6
