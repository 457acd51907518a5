"""All that was tried: plot, front, tables."""

from __future__ import annotations

import re
import tomllib
from html import unescape
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.bundle.manifest import Candidate, Quality
from openglm.report import scatter, units
from openglm.report.front import front, lost
from openglm.report.page import render
from openglm.report.story import trained
from openglm.report.tried import short_codes


@pytest.mark.parametrize("count", [1, 2, 8, 30, 45])
def test_labels_of_the_plot_do_not_overlap(make: Any, count: int) -> None:
    page = render(make.crowd(count))
    for name, width in (("wide", 760), ("narrow", 360)):
        boxes = [box for _, box in labels(page, name)]
        assert len(boxes) == count
        assert all(box.left >= 0 and box.right <= width for box in boxes)
        clashes = sum(a.overlap(b) for index, a in enumerate(boxes) for b in boxes[:index])
        assert clashes == 0


def labels(page: str, name: str) -> list[tuple[str, scatter.Box]]:
    """The labels of a plot, and the place that each takes up."""
    found = re.search(rf'<svg[^>]*class="plot {name}".*?</svg>', page, re.S)
    assert found is not None
    made = []
    for x, y, end, kind, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)"( text-anchor="end")? class="label ([^"]*)">([^<]*)<', found[0]
    ):
        bold = scatter.BOLD if kind == "chosen" else 1.0
        wide = len(text) * scatter.WIDTH_OF_LETTER * bold + 2
        left, bottom = float(x) - (wide - 2 if end else 0), float(y) + 4
        made.append((text, scatter.Box(left, bottom - 16, left + wide, bottom)))
    return made


def test_codes_lose_only_what_all_have() -> None:
    assert short_codes(["as it is", "fuse", "fuse + a", "fuse + b + c"]) == ["as it is", "fuse", "a", "b + c"]
    assert short_codes(["a + b", "c + b"]) == ["a", "c"]
    assert short_codes(["layers + fuse + int8", "fuse + int8"]) == ["layers", "fuse + int8"]
    assert short_codes([]) == []


def test_labels_of_a_long_search_do_not_overlap_and_name_the_front(make: Any) -> None:
    manifest = make.searched()
    numbered = [number for number, item in enumerate(manifest.candidates, 1) if item.speedup is not None]
    page = render(manifest)
    for name in ("wide", "narrow"):
        texts = labels(page, name)
        assert sorted(int(text.split()[0]) for text, _ in texts) == numbered
        boxes = [box for _, box in texts]
        assert not sum(a.overlap(b) for index, a in enumerate(boxes) for b in boxes[:index])
    named = {int(text.split()[0]) for text, _ in labels(page, "wide") if " " in text}
    assert named == {place + 1 for place in front(manifest.candidates)}


def test_the_front_is_what_no_other_beats(make: Any) -> None:
    def item(speed: float, size: float, value: float, outcome: str = "accepted") -> Candidate:
        return make.tried("fuse", outcome, "", size, speed, value)

    candidates = [
        item(1.0, 90, 1.0),
        item(3.0, 20, 0.99, "chosen"),
        item(2.0, 20, 0.99),  # slower than the one before, and no better in anything
        item(2.5, 30, 0.995),
        item(9.0, 5, 0.5, "refused"),
        item(3.0, 20, 0.99),  # equal to the first: neither beats the other
        item(1.0, 90, 0.99).model_copy(update={"quality": None}),
    ]
    assert front(candidates) == [1, 5, 3, 0]
    assert front([]) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]), st.sampled_from([0.9, 0.95, 1.0])),
        max_size=8,
    )
)
def test_whatever_is_not_on_the_front_is_beaten_by_something_on_it(
    make: Any, figures: list[tuple[float, float, float]]
) -> None:
    items = [make.tried("fuse", "accepted", "", size, speed, value) for speed, size, value in figures]
    kept = front(items)
    for place, (speed, size, value) in enumerate(figures):
        beaten = any(
            other != figures[place] and other[0] >= speed and other[1] <= size and other[2] >= value
            for other in (figures[index] for index in kept)
        )
        assert beaten == (place not in kept)


def test_the_front_goes_the_way_that_the_metric_does(make: Any) -> None:
    def item(speed: float, value: float) -> Candidate:
        judged = Quality(metric="perplexity", value=value, higher_is_better=False, samples=10)
        return make.tried("fuse", "accepted", "", 20, speed, 1.0).model_copy(update={"quality": judged})

    assert front([item(1, 12.0), item(1, 13.0), item(2, 12.5)]) == [2, 0]


def test_the_table_of_the_front_gives_figures_and_recipes(make: Any) -> None:
    manifest = make.searched()
    page = render(manifest)
    shown = re.search(r'<table role="table" class="front stack">.*?</table>', page, re.S)
    assert shown is not None
    rows = re.findall(r'<tr role="row"><th scope="row".*?</tr>', shown[0], re.S)
    places = front(manifest.candidates)
    assert len(rows) == len(places) > 3
    for row, place in zip(rows, places, strict=True):
        item = manifest.candidates[place]
        text = make.words(make.Page(row).text)
        assert f" {place + 1} " in text
        assert units.times(item.speedup) in text
        assert make.words(units.size(item.size_bytes)) in text
        assert trained(item) in text
        assert ("the one chosen" in text) == (item.outcome == "chosen")
        block = re.search(r"<pre[^>]*><code>(.*?)</code>", row, re.S)
        assert block is not None
        assert tuple(tomllib.loads(unescape(block[1]))["steps"]) == item.recipe


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (0.0063, "0.0063"),
        (0.0, "nothing"),
        (2e-6, "under 0.0001"),
        (-0.012, "0.012 gained"),
        (None, "0.01"),
    ],
)
def test_a_loss_is_told_in_words_where_it_is_none(make: Any, loss: float | None, said: str) -> None:
    item = make.tried("fuse", "accepted", "", 20, 2, 0.99).model_copy(update={"loss": loss})
    assert lost(item, make.sample()) == said


def test_there_is_no_front_where_there_is_no_choice(make: Any) -> None:
    manifest = make.sample()
    only = [item for item in manifest.candidates if item.outcome in ("chosen", "refused")]
    assert "The front" not in make.Page(render(make.sample(candidates=tuple(only)))).text


def test_of_many_candidates_none_is_lost_and_those_that_cannot_be_had_are_folded(make: Any) -> None:
    manifest = make.searched()
    page = render(manifest)
    outcomes = [item.outcome for item in manifest.candidates]
    open_, folded, _ = re.split(r'<details class="others">|</table></details>', page, maxsplit=2)

    def numbers(text: str) -> list[int]:
        tables = re.findall(r'<table role="table" class="tried stack">.*?(?:</table>|$)', text, re.S)
        return [int(number) for table in tables for number in re.findall(r'class="index">(\d+)<', table)]

    accepted = [number for number, word in enumerate(outcomes, 1) if word in ("chosen", "accepted")]
    assert numbers(open_) == accepted
    assert numbers(folded) == [n for n in range(1, len(outcomes) + 1) if n not in accepted]
    assert f"{outcomes.count('refused')} refused, 1 failed, 1 not tried" in folded
    assert '<details class="others">' not in render(make.sample())


def test_training_is_told_in_words(make: Any) -> None:
    item = make.candidate("fuse", "accepted", "")
    told = [trained(item.model_copy(update={"effort": effort})) for effort in range(5)]
    assert told == ["", "trained once", "trained twice", "trained three times", "trained 4 times"]
    given = make.candidate("neuron_pruning + distil + fuse", "accepted", "")
    assert trained(given) == "trained once", "a recipe that was given says so by its steps"
    assert "Trained three times." in make.Page(render(make.searched())).text
