"""The plot of all that was tried: speed against quality, size as area, labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from openglm.report import scale, units
from openglm.report.markup import Markup, tag

FONT = 12
WIDTH_OF_LETTER = 6.6
"""Of most letters at that size; too much rather than too little, as fonts differ."""

BOLD = 1.15
"""How much wider the chosen one's label is."""

LONGEST = 40
"""Letters of a label; the table gives the whole."""

LARGEST, SMALLEST = 13.0, 4.0
"""Radii in pixels."""

CROWD = 14
"""With more points than these only the front is called by name, the others by number."""

LEFT, TOP, BOTTOM = 58, 20, 50
"""Margins for what is written at the axes."""

REACH = 4
"""Points farther from the original than so many times the farthest accepted one are drawn at the edge:
a ruined model would else press all others into a line."""


@dataclass(frozen=True)
class Point:
    """One candidate."""

    number: int
    """What the table calls it."""
    label: str
    speedup: float
    quality: float
    size: float
    outcome: str
    text: str
    """All of it in a sentence, for a pointer that rests there."""
    front: bool = False
    """Whether no other beats it in speed, size and quality at once."""


@dataclass(frozen=True)
class Frame:
    """What the points are compared with, and the place they are drawn in."""

    metric: str
    original: float
    """Quality of the original."""
    allowed: float
    """The worst quality that is accepted, where known."""
    width: int
    height: int
    name: str
    """Class name of the variant: "wide" or "narrow"."""


@dataclass(frozen=True)
class Box:
    """A rectangle that something covers."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> bool:
        """Whether they share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass(frozen=True)
class Place:
    """Where a point is drawn."""

    x: float
    y: float
    radius: float
    beyond: int
    """0; 1 where the point is below the plot and drawn at its edge, -1 where it is above."""

    @property
    def box(self) -> Box:
        """What its mark covers."""
        room = self.radius + 2
        return Box(self.x - room, self.y - room, self.x + room, self.y + room)


def scatter(points: Sequence[Point], frame: Frame, title: str, description: str) -> Markup:
    """The plot, in one variant of width; empty where there are no points."""
    if not points:
        return Markup("")
    low, high = _reach(points, frame)
    levels = {point.number: min(max(point.quality, low), high) for point in points}
    across = [1.0, *(point.speedup for point in points)]
    x = scale.around(across, LEFT, frame.width - 16)
    y = scale.around([frame.original, frame.allowed, *levels.values()], frame.height - BOTTOM, TOP)
    biggest = max(point.size for point in points) or 1.0
    # The largest first, so that none hides another.
    drawn = sorted(points, key=lambda point: (-point.size, point.number))
    places = {
        point.number: Place(
            x(point.speedup),
            y(levels[point.number]),
            max(SMALLEST, LARGEST * math.sqrt(point.size / biggest)),
            (point.quality < low) - (point.quality > high),
        )
        for point in drawn
    }
    taken = [place.box for place in places.values()]
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        _grid(x, y, frame),
        _allowed(x, y, frame, taken),
        [_mark(point, places[point.number]) for point in drawn],
        _labels(points, places, frame, taken),
        role="img",
        aria_label=title,
        viewBox=f"0 0 {frame.width} {frame.height}",
        class_=f"plot {frame.name}",
    )


def _reach(points: Sequence[Point], frame: Frame) -> tuple[float, float]:
    """The qualities between which points are drawn where they are."""
    good = [point.quality for point in points if point.outcome in ("chosen", "accepted")]
    every = [abs(point.quality - frame.original) for point in points]
    near = max((abs(value - frame.original) for value in [*good, frame.allowed]), default=0.0)
    most = REACH * near or max(every)
    return frame.original - most, frame.original + most


def _grid(x: scale.Scale, y: scale.Scale, frame: Frame) -> list[Markup]:
    parts = []
    bottom, left, right, top = y.start, x.start, x.end, y.end
    across = scale.ticks(x.low, x.high, max(3, frame.width // 90))
    for value, text in zip(across, scale.labels(across), strict=True):
        parts.append(tag("line", x1=x(value), x2=x(value), y1=top, y2=bottom, class_="grid"))
        parts.append(tag("text", f"{text}×", x=x(value), y=bottom + 18, text_anchor="middle", class_="tick"))
    upwards = scale.ticks(y.low, y.high, 6)
    for value, text in zip(upwards, scale.labels(upwards), strict=True):
        parts.append(tag("line", x1=left, x2=right, y1=y(value), y2=y(value), class_="grid"))
        parts.append(tag("text", text, x=left - 8, y=y(value) + 4, text_anchor="end", class_="tick"))
    parts.append(tag("line", x1=x(1), x2=x(1), y1=top, y2=bottom, class_="axis"))
    parts.append(tag("line", x1=left, x2=right, y1=y(frame.original), y2=y(frame.original), class_="axis"))
    middle = (left + right) / 2
    parts.append(
        tag(
            "text",
            "speed, times the original’s →",
            x=middle,
            y=bottom + 40,
            text_anchor="middle",
            class_="quiet",
        )
    )
    parts.append(
        tag("text", _short(frame.metric, 24), x=left, y=top - 4, text_anchor="start", class_="quiet")
    )
    return parts


def _allowed(x: scale.Scale, y: scale.Scale, frame: Frame, taken: list[Box]) -> list[Markup]:
    """The limit of quality, with its name at the end where no mark is."""
    level = y(frame.allowed)
    text = "least allowed" if frame.allowed < frame.original else "most allowed"
    width = len(text) * WIDTH_OF_LETTER
    ends = [
        ("end", x.end, Box(x.end - width, level + 2, x.end, level + FONT + 6)),
        ("start", x.start + 4, Box(x.start + 4, level + 2, x.start + 4 + width, level + FONT + 6)),
    ]
    anchor, at, box = next((end for end in ends if not any(map(end[2].overlap, taken))), ends[0])
    taken.append(box)
    line = tag("line", x1=x.start, x2=x.end, y1=level, y2=level, class_="limit")
    return [line, tag("text", text, x=at, y=level + 14, text_anchor=anchor, class_="tick")]


def _mark(point: Point, place: Place) -> Markup:
    x, y, radius = place.x, place.y, place.radius
    shape: object
    if point.outcome == "refused":
        # A diamond of the circle's area.
        half = radius * math.sqrt(math.pi / 2)
        corners = (
            f"{x:.1f},{y - half:.1f} {x + half:.1f},{y:.1f} {x:.1f},{y + half:.1f} {x - half:.1f},{y:.1f}"
        )
        shape = tag("polygon", points=corners)
    elif point.outcome == "failed":
        shape = tag("path", d=f"M{x - 5:.1f},{y - 5:.1f}l10,10m0,-10l-10,10")
    else:
        shape = tag("circle", cx=x, cy=y, r=radius)
    if point.outcome == "chosen":
        shape = [shape, tag("circle", cx=x, cy=y, r=radius + 4, class_="halo")]
    if place.beyond:
        base = y + place.beyond * (radius + 5)
        shape = [shape, tag("path", d=f"M{x - 5:.1f},{base:.1f}h10l-5,{7 * place.beyond}z", class_="beyond")]
    style = f"mark {point.outcome.replace(' ', '-')}{' front' if point.front else ''}"
    return tag("g", tag("title", point.text), shape, class_=style)


def _labels(
    points: Sequence[Point], places: dict[int, Place], frame: Frame, taken: list[Box]
) -> list[Markup]:
    """Each label at the nearest free place; where a name finds none, its number alone."""
    page = Box(LEFT + 2, TOP, frame.width - 2, frame.height - BOTTOM)
    parts = []
    crowd = len(points) > CROWD
    for point in sorted(points, key=lambda point: (point.outcome != "chosen", not point.front, point.number)):
        place = places[point.number]
        beyond = f" ({units.score(point.quality)})" if place.beyond and not crowd else ""
        number = f"{point.number}{beyond}"
        bold = BOLD if point.outcome == "chosen" else 1.0
        tries = [(number, box) for box in _near(place, number, bold)]
        if point.outcome == "chosen" or (frame.name == "wide" and (point.front or not crowd)):
            name = f"{point.number} {_short(point.label, LONGEST)}{beyond}"
            tries = [*((name, box) for box in _near(place, name, bold)), *tries]
        found = next((item for item in tries if _free(item[1], taken, page)), None)
        text, box = found or (number, _far(place, number, taken, page, bold))
        taken.append(box)
        parts.append(_leader(place, box))
        # Held at the point's side: where a font is wider than thought, a text grows away from its mark.
        at, anchor = (box.right - 2, "end") if box.right <= place.x else (box.left, None)
        style = f"label {point.outcome}"
        parts.append(tag("text", text, x=at, y=box.bottom - 4, text_anchor=anchor, class_=style))
    return parts


def _free(box: Box, taken: Sequence[Box], page: Box) -> bool:
    across = box.left >= page.left and box.right <= page.right
    return across and box.top >= page.top and box.bottom <= page.bottom and not any(map(box.overlap, taken))


def _box(left: float, top: float, text: str, bold: float) -> Box:
    return Box(left, top, left + len(text) * WIDTH_OF_LETTER * bold + 2, top + FONT + 4)


def _near(place: Place, text: str, bold: float) -> Iterator[Box]:
    """Places for a text about a point, the best first: beside it, above, below, then farther away."""
    x, y, radius = place.x, place.y, place.radius
    size = _box(0, 0, text, bold)
    for gap in (7, 14, 24, 36):
        far = radius + gap
        for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (0.8, 0.8), (-0.8, -0.8), (-0.8, 0.8)):
            left = x + dx * far - (size.right if dx < 0 else 0 if dx > 0 else size.right / 2)
            top = y + dy * far - (size.bottom if dy < 0 else 0 if dy > 0 else size.bottom / 2)
            yield _box(left, top, text, bold)


def _far(place: Place, text: str, taken: Sequence[Box], page: Box, bold: float) -> Box:
    """The nearest free place anywhere; where the whole plot is full, beside the point."""
    x, y, radius = place.x, place.y, place.radius
    grid = [
        _box(left, top, text, bold)
        for top in range(int(page.top), int(page.bottom), 8)
        for left in range(int(page.left), int(page.right), 10)
    ]
    grid.sort(key=lambda box: math.hypot((box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y))
    return next((box for box in grid if _free(box, taken, page)), _box(x + radius, y, text, bold))


def _leader(place: Place, box: Box) -> Markup:
    """A line from a point to a label that is not beside it."""
    x, y, radius = place.x, place.y, place.radius
    end_x, end_y = min(max(x, box.left), box.right), min(max(y, box.top + 2), box.bottom - 2)
    distance = math.hypot(end_x - x, end_y - y)
    if distance < radius + 9:
        return Markup("")
    share = (radius + 1) / distance
    start_x, start_y = x + share * (end_x - x), y + share * (end_y - y)
    return tag("line", x1=start_x, y1=start_y, x2=end_x, y2=end_y, class_="leader")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip(' +')}…"
