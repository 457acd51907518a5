"""Plots of bars, as SVG without a width of its own: places are in percent, so that text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openglm.report import scale
from openglm.report.markup import Markup, tag

ROW, BAR = 44, 12
"""Height of a bar with its text, and of the bar alone."""


@dataclass(frozen=True)
class Bar:
    """One value of a plot."""

    label: str
    value: float
    text: str
    """The value as it is written."""
    style: str
    """Class name: "before" or "after"."""
    low: float | None = None
    high: float | None = None
    """The spread, drawn as a whisker."""


def bars(title: str, description: str, items: Sequence[Bar]) -> Markup:
    """Bars one above the other from a common zero, the label and the value above each."""
    most = max((max(item.value, item.high or 0.0) for item in items), default=0.0) or 1.0
    rows = [
        [_text(item, index * ROW + 13), _bar(item, index * ROW + 22, most)]
        for index, item in enumerate(items)
    ]
    return figure(title, description, rows, len(items) * ROW - 4)


def figure(title: str, description: str, content: object, height: float) -> Markup:
    """An SVG as wide as its place."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        content,
        role="img",
        aria_label=title,
        width="100%",
        height=height,
        class_="plot",
    )


def _text(item: Bar, y: float) -> list[Markup]:
    return [
        tag("rect", x=0, y=y - 9, width=9, height=9, rx=2, class_=f"fill {item.style}"),
        tag("text", item.label, x=15, y=y, class_="quiet"),
        tag("text", item.text, x="100%", y=y, text_anchor="end", class_="value"),
    ]


def _bar(item: Bar, y: float, most: float) -> list[Markup]:
    width = _percent(item.value / most)
    parts = [
        tag("rect", x=0, y=y, width="100%", height=BAR, rx=2, class_="rest"),
        tag("rect", x=0, y=y, width=width, height=BAR, rx=2, class_=f"fill {item.style}"),
    ]
    if item.low is not None and item.high is not None:
        low, high, middle = _percent(item.low / most), _percent(item.high / most), y + BAR / 2
        # Twice: a wide one in the paper's colour sets the line off from the bar that it crosses.
        for style in ("whisker under", "whisker"):
            parts.append(tag("line", x1=low, x2=high, y1=middle, y2=middle, class_=style))
            for end in (low, high):
                parts.append(tag("line", x1=end, x2=end, y1=middle - 4, y2=middle + 4, class_=style))
    return parts


def _percent(share: float) -> str:
    """A place or width; nothing for a value that is no number."""
    return f"{100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0:.2f}%"


def dumbbell(title: str, description: str, before: Bar, after: Bar, allowed: float) -> Markup:
    """Two values on a scale that starts where they are, and the least (or most) that is allowed."""
    x = scale.around([before.value, after.value, allowed], 4, 96, pad=0.15)
    y = 58

    def at(value: float) -> str:
        return f"{x(value):.2f}%"

    parts = [*_text(before, 13), *_text(after, 33)]
    found = scale.ticks(x.low, x.high, 4)
    for value, text in zip(found, scale.labels(found), strict=True):
        parts.append(tag("line", x1=at(value), x2=at(value), y1=y - 10, y2=y + 10, class_="grid"))
        parts.append(tag("text", text, x=at(value), y=y + 26, text_anchor="middle", class_="tick"))
    parts.append(tag("line", x1=0, x2="100%", y1=y, y2=y, class_="axis"))
    parts.append(tag("line", x1=at(allowed), x2=at(allowed), y1=y - 11, y2=y + 11, class_="limit"))
    parts.append(tag("line", x1=at(before.value), x2=at(after.value), y1=y, y2=y, class_="link"))
    parts.append(tag("circle", cx=at(before.value), cy=y, r=7, class_="ring before"))
    parts.append(tag("circle", cx=at(after.value), cy=y, r=5, class_="fill after"))
    return figure(title, description, parts, y + 32)


def track(pairs: Sequence[tuple[float, str]], limit: float | None = None) -> Markup:
    """Thin bars from zero, shares of the full width, and a limit across them; told in text beside it."""
    thick, gap = (7, 3) if len(pairs) > 1 else (9, 0)
    height = len(pairs) * (thick + gap) - gap + 6
    parts = []
    for index, (share, style) in enumerate(pairs):
        y, width = 3 + index * (thick + gap), _percent(share)
        parts.append(tag("rect", x=0, y=y, width="100%", height=thick, rx=1.5, class_="rest"))
        parts.append(tag("rect", x=0, y=y, width=width, height=thick, rx=1.5, class_=f"fill {style}"))
    if limit is not None:
        x = _percent(limit)
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=height, class_="budget"))
    return tag("svg", parts, width="100%", height=height, aria_hidden="true", class_="plot track")


def stack(title: str, description: str, shares: Sequence[tuple[float, str]]) -> Markup:
    """One bar of parts side by side: shares of the whole, and class names."""
    height, start, parts = 34, 0.0, []
    for share, style in shares:
        parts.append(tag("rect", x=_percent(start), width=_percent(share), height=height, class_=style))
        start += share
    return figure(title, description, parts, height)
