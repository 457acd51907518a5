"""The page: its frame, its opening, and its sections in order."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from importlib import resources
from string import Template

from openglm.bundle.manifest import Manifest
from openglm.report import (
    comparison,
    cost,
    engines,
    record,
    sensitivity,
    spending,
    story,
    tried,
    units,
    verdict,
    ways,
)
from openglm.report.markup import Content, Markup, join, tag
from openglm.report.parts import badge

REPORT = "report.html"
"""Its file in a bundle."""

SECTIONS: dict[str, tuple[str, Callable[[Manifest], Markup | None]]] = {
    "verdict": ("Fit", verdict.show),
    "measured": ("Side by side", comparison.show),
    "engines": ("Engines", engines.show),
    "ways": ("Ways", ways.show),
    "tried": ("What was tried", tried.show),
    "time": ("Search time", spending.show),
    "sensitivity": ("Sensitivity", sensitivity.show),
    "layers": ("Layers", cost.show),
    "record": ("How it was made", record.show),
}
"""By anchor: the name in the navigation, and what makes the section, or nothing where there is none."""


def render(manifest: Manifest) -> str:
    """The report on a bundle as one HTML page that needs nothing from anywhere else."""
    made = {anchor: show(manifest) for anchor, (_, show) in SECTIONS.items()}
    sections = {anchor: section for anchor, section in made.items() if section is not None}
    return document(
        f"{manifest.name} for {manifest.device.get('name', 'a device')}",
        _opening(manifest, list(sections)),
        sections.values(),
        _footer(manifest),
    )


def document(title: str, opening: Markup, sections: Iterable[Markup], footer: Markup) -> str:
    """A page in the style of all reports, which loads nothing and runs nothing but what is in it."""
    folder = resources.files("openglm.report")
    style, script, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "page.html")
    )
    return Template(page).substitute(
        # By their hashes, so that nothing else can run or load, should some text ever get past the escaping.
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        title=join(title),
        style=style,
        script=script,
        opening=opening,
        sections=join(sections),
        footer=footer,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _opening(manifest: Manifest, anchors: Sequence[str]) -> Markup:
    links = [tag("a", SECTIONS[anchor][0], href=f"#{anchor}") for anchor in anchors]
    places = tag("nav", links, aria_label="Sections")
    return tag(
        "header",
        tag(
            "div",
            tag("p", f"openglm report · {_day(manifest.created)}", class_="eyebrow"),
            places,
            class_="top",
        ),
        tag("h1", _whole(story.headline(manifest))),
        tag("p", story.standing(manifest), class_="lead"),
        record.data(manifest) if story.unjudged(manifest) else None,
        tag("div", _numbers(manifest), class_="numbers"),
        badge("measured", f"{manifest.host.processor} with {manifest.host.engine}"),
        class_="opening",
    )


def _whole(text: str) -> list[Content]:
    """A sentence whose words with hyphens, the names of models and devices, are not broken at them."""
    return [[tag("span", word, class_="whole") if "-" in word else word, " "] for word in text.split(" ")]


def _numbers(manifest: Manifest) -> list[Markup]:
    before, after = manifest.before, manifest.after
    quality = after.quality
    smaller = units.ratio(before.size_bytes, after.size_bytes)
    return [
        _number(
            "Size",
            units.size(before.size_bytes),
            units.size(after.size_bytes),
            _ratio(smaller, "smaller", "larger"),
        ),
        _number(
            "Latency",
            units.ms(before.timing.median_ms),
            units.ms(after.timing.median_ms),
            _ratio(manifest.speedup, "faster", "slower"),
        ),
        _number(
            quality.metric.capitalize(),
            units.score(before.quality.value),
            units.score(quality.value),
            f"over {units.count(quality.samples, 'sample')}",
        ),
    ]


def _number(name: str, before: str, after: str, note: str) -> Markup:
    figure, _, unit = after.partition(units.NBSP)
    arrow: Content = [tag("span", "from ", class_="aloud"), before, tag("span", "→", aria_hidden="true")]
    return tag(
        "div",
        tag("p", name, class_="name"),
        tag("p", arrow, class_="from"),
        tag(
            "p", tag("span", "to ", class_="aloud"), figure, tag("small", unit) if unit else None, class_="to"
        ),
        tag("p", note, class_="note"),
    )


def _ratio(factor: float | None, better: str, worse: str) -> str:
    if factor is None:
        return ""
    if factor == 1:
        return "unchanged"
    if abs(factor - 1) < story.NOISE:
        return "about the same"
    return f"{units.times(factor)} {better}" if factor > 1 else f"{units.times(1 / factor)} {worse}"


def _day(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _footer(manifest: Manifest) -> Markup:
    return tag(
        "p",
        f"Made by openglm {manifest.openglm}. Measured figures are of the host named beside them, "
        "predicted ones of the device. This page loads nothing and sends nothing.",
    )
