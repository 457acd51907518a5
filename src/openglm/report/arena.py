"""A memory plan as a picture: time from left to right, addresses from the bottom up."""

from __future__ import annotations

from openglm.memory.plan import Placement, Plan
from openglm.report import units
from openglm.report.markup import Markup, join, tag

WIDTH, HEIGHT = 1000, 480
LEFT, TOP, BELOW = 76, 46, 40
COLOURS = ("#0a6973", "#6aa9d8", "#c9a227", "#8a6fb0", "#c8643c", "#3f7d54", "#a0a7ae")
"""After Okabe and Ito's palette, as in the report."""
LABEL = 60
"""Width from which a rectangle bears its name."""


def picture(plan: Plan) -> str:
    """The plan as an SVG file of its own: each piece of storage is a rectangle with its name as a tooltip."""
    steps, room = max(len(plan.steps), 1), max(plan.arena_bytes, 1)
    across, up = (WIDTH - LEFT - 16) / steps, (HEIGHT - TOP - BELOW) / room
    bottom = HEIGHT - BELOW
    shapes = [_rectangle(place, index, across, up, bottom) for index, place in enumerate(plan.placements)]
    bound = bottom - plan.lower_bound * up
    proof = "the least possible" if plan.optimal else f"at least {units.size(plan.lower_bound)}"
    heading = f"{plan.name}: {units.size(plan.arena_bytes)} ({proof})"
    return join(
        [
            Markup('<?xml version="1.0" encoding="UTF-8"?>\n'),
            tag(
                "svg",
                tag("title", heading),
                tag("style", Markup(_STYLE)),
                tag("rect", width="100%", height="100%", class_="paper"),
                tag("text", heading, x=LEFT, y=26, class_="head"),
                shapes,
                tag("line", x1=LEFT, x2=WIDTH - 16, y1=bound, y2=bound, class_="bound"),
                tag("line", x1=LEFT, x2=LEFT, y1=TOP, y2=bottom, class_="axis"),
                tag("line", x1=LEFT, x2=WIDTH - 16, y1=bottom, y2=bottom, class_="axis"),
                tag("text", units.size(plan.arena_bytes), x=LEFT - 6, y=TOP + 4, text_anchor="end"),
                tag("text", "0", x=LEFT - 6, y=bottom + 4, text_anchor="end"),
                tag("text", "step 0", x=LEFT, y=bottom + 22),
                tag("text", f"step {steps - 1}", x=WIDTH - 16, y=bottom + 22, text_anchor="end"),
                xmlns="http://www.w3.org/2000/svg",
                viewBox=f"0 0 {WIDTH} {HEIGHT}",
                role="img",
            ),
        ]
    )


def _rectangle(place: Placement, index: int, across: float, up: float, bottom: float) -> Markup:
    x, width = LEFT + place.first * across, (place.last - place.first + 1) * across
    height = place.nbytes * up
    y = bottom - place.offset * up - height
    told = f"{place.name}: {place.nbytes:,} bytes at {place.offset:,}, steps {place.first} to {place.last}"
    parts = [
        tag("title", told),
        tag("rect", x=x, y=y, width=width, height=height, fill=COLOURS[index % len(COLOURS)]),
    ]
    if width >= LABEL and height >= 14:
        shown = place.name if len(place.name) * 7 < width else place.name[: int(width / 7) - 1] + "…"
        parts.append(tag("text", shown, x=x + 4, y=y + min(height / 2 + 4, 16), class_="name"))
    return tag("g", parts)


_STYLE = """
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: #1b2024 }
.head { font-size: 16px; font-weight: 600 } .name { fill: #fff }
.paper { fill: #fdfdfb } .axis { stroke: #57606a } g rect { stroke: #fdfdfb; stroke-width: .6 }
.bound { stroke: #9a3f0a; stroke-dasharray: 5 4 }
"""
