"""The page as a whole: right sentences, nothing unescaped, nothing fetched, whatever a manifest may hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from importlib import resources
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.bundle.manifest import Candidate, Sensitivity
from openglm.report import story
from openglm.report.page import render


def test_a_page_says_what_was_done(make: Any) -> None:
    text = make.words(make.Page(render(make.sample())).text).replace("\u202f", " ")
    assert story.headline(make.sample()).replace("\u202f", " ") == (
        "all-minilm-l6-v2 for cortex-a53-2gb: 75 % smaller, 2.5× faster where it was measured, "
        "at a loss of 0.0063 fidelity."
    )
    assert story.standing(make.sample()) == (
        "It is predicted to fit cortex-a53-2gb within every limit, 2.5× faster there than the original."
    )
    for said in (
        "90.4 MB",
        "22.9",
        "Calibration ended before a sample was seen.",
        "67 % over",
        "not tried",
    ):
        assert said in text, said
    assert "Not judged on your data" not in text


def test_a_page_says_where_every_figure_is_from(make: Any) -> None:
    page = render(make.searched())
    sections = re.findall(r'<section id="(\w+)".*?</section>', page, re.S)
    assert sections == ["verdict", "measured", "tried", "time", "sensitivity", "layers", "record"]
    assert re.findall(r'<a href="#(\w+)"', page) == sections
    for name, origin in (
        ("verdict", "predicted"),
        ("measured", "measured"),
        ("tried", "measured"),
        ("time", "measured"),
        ("sensitivity", "measured"),
        ("layers", "predicted"),
    ):
        body = re.search(rf'<section id="{name}".*?</section>', page, re.S)
        assert body is not None
        assert f'class="badge {origin}"' in body[0]
    assert "AMD EPYC 7B13" in page
    assert "onnxruntime 1.23.0" in page


def test_sections_on_what_was_not_recorded_are_not_there(make: Any) -> None:
    page = render(make.sample())
    assert re.findall(r'<section id="(\w+)"', page) == ["verdict", "measured", "tried", "layers", "record"]
    assert re.findall(r'<a href="#(\w+)"', page) == re.findall(r'<section id="(\w+)"', page)


def test_where_nothing_paid_and_nothing_fits_the_page_says_so(make: Any) -> None:
    text = make.words(make.Page(render(make.unchanged())).text)
    assert "all-minilm-l6-v2 was left as it is for cortex-a53-2gb: none of 3 recipes paid." in text
    assert "predicted not to fit cortex-a53-2gb: latency is 517 ms where 310 ms is allowed," in text
    assert "Not judged on your data." in text
    assert "The cost of layers was not recorded." in text


def test_text_of_others_stays_text(make: Any) -> None:
    page = render(make.hostile())
    parsed = make.Page(page)
    assert not [name for name, _ in parsed.elements if name == "img"]
    assert [name for name, _ in parsed.elements].count("script") == 1
    assert not [key for _, attributes in parsed.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in parsed.text
    assert not set("\x00\u202e") & set(page)
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(plot)


def test_a_page_needs_nothing_from_elsewhere_and_runs_nothing_but_its_own(make: Any) -> None:
    page = render(make.sample())
    assert not re.findall(r"https?:|@import|url\(", page)
    assert {attributes["href"] for name, attributes in make.Page(page).elements if name == "link"} == {
        "data:,"
    }
    assert "style=" not in page, "the policy forbids styles of elements"
    assert "default-src 'none'" in page
    assert "unsafe" not in page


@pytest.mark.parametrize("kind", ["sample", "unchanged", "crowd", "searched"])
def test_a_page_can_be_read_by_ear_and_is_small(make: Any, kind: str) -> None:
    page = render(getattr(make, kind)())
    assert len(page.encode()) < 160_000
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(plot)
        assert "<title>" in plot or 'aria-hidden="true"' in plot
    assert page.count("<table") == page.count("<caption>") > 0
    anchors = {attributes.get("id") for _, attributes in make.Page(page).elements}
    assert {link[1:] for link in re.findall(r'href="(#\w+)"', page)} <= anchors


def test_text_has_the_contrast_of_wcag_aa_in_both_schemes() -> None:
    style = (resources.files("openglm.report") / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{[^}]*\}", style)
    schemes = [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]
    assert len(schemes) == 2
    for colours in schemes:
        for text, ground, least in (
            ("ink", "paper", 7.0),
            ("quiet", "paper", 4.5),
            ("accent", "paper", 4.5),
            ("warn", "paper", 4.5),
            ("warn", "warn-soft", 4.5),
            ("ink", "rest", 7.0),
            ("before", "paper", 3.0),
            *(("ink", f"heat-{level}", 4.5) for level in range(5)),
            *(("paper", f"heat-{level}", 4.5) for level in (5, 6)),
        ):
            assert contrast(colours[text], colours[ground]) >= least, (text, ground, colours)


def contrast(first: str, second: str) -> float:
    """Ratio of two colours' luminances, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colours_of_costs_differ_in_lightness_so_that_every_eye_tells_them_apart() -> None:
    style = (resources.files("openglm.report") / "style.css").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r":root \{[^}]*\}", style) if "--heat-0" in block]
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        steps = [contrast(colours[f"heat-{level}"], colours["paper"]) for level in range(7)]
        assert all(later > 1.1 * earlier for earlier, later in pairwise(steps)), steps


@pytest.mark.parametrize(
    "changes",
    [
        {"candidates": ()},
        {"candidates": (Candidate(code="fuse", recipe=(), outcome="failed", reason="It broke."),)},
        {"verdict_before": {}, "verdict_after": {}, "device": {}, "budget": {}},
        {"files": {}, "versions": {}, "shape": {}, "inputs": (), "outputs": ()},
        {"created": "yesterday"},
        {"layers": ({"phase": "after", "name": ""}, {"phase": "before"}, {"phase": "later", "name": "x"})},
        {"sensitivities": (Sensitivity(part="", modules=(), technique="", cost=float("nan")),)},
        {"sensitivities": (Sensitivity(part="a b", modules=(), technique="new", cost=1e300),)},
        {"elapsed_s": float("inf")},
        {"elapsed_s": 0.0},
        {"max_drop": 0.0},
    ],
)
def test_a_page_is_made_of_whatever_is_there(make: Any, changes: dict[str, Any]) -> None:
    make.Page(render(make.searched(**changes)))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(*[st.one_of(st.none(), st.floats(), st.sampled_from([0.0, 1.0, 1e-300, 1e300]))] * 3),
        max_size=8,
    )
)
def test_no_figures_break_a_page(
    make: Any, values: list[tuple[float | None, float | None, float | None]]
) -> None:
    made = []
    for speed, value, ms in values:
        item = make.tried("fuse", "accepted", "", 1, 1, 1)
        changes = {
            "speedup": speed,
            "quality": None if value is None else make.quality(value),
            "timing": None if ms is None else make.timing(ms),
        }
        made.append(item.model_copy(update=changes))
    first = made[0] if made else None
    figures = make.sample().after
    if first is not None and first.quality is not None and first.timing is not None:
        figures = figures.model_copy(update={"quality": first.quality, "timing": first.timing})
    page = render(make.sample(candidates=tuple(made), before=figures))
    page += render(make.sample(candidates=tuple(made), after=figures))
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        assert not re.search(r'="-?(nan|inf)', plot)
