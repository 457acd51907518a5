"""Where a search's time went."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openglm.report import spending
from openglm.report.page import render


def test_every_second_is_counted_once_and_the_rest_is_other(make: Any) -> None:
    manifest = make.searched()
    found = spending.spent(manifest)
    assert sum(found.values()) == pytest.approx(manifest.elapsed_s)
    assert found["other"] == pytest.approx(100.0)
    for kind in set(found) - {"other"}:
        assert found[kind] == pytest.approx(sum(item.spent.get(kind, 0.0) for item in manifest.candidates))
    assert list(found) == ["training", "exporting", "quantizing", "judging", "measuring", "waiting", "other"]


def test_bar_and_table_give_the_same_shares(make: Any) -> None:
    manifest = make.searched()
    section = re.search(r'<section id="time".*?</section>', render(manifest), re.S)
    assert section is not None
    widths = [float(width) for width in re.findall(r'<rect x="[\d.]+%" width="([\d.]+)%"', section[0])]
    seconds = list(spending.spent(manifest).values())
    assert widths == [pytest.approx(100 * each / sum(seconds), abs=0.01) for each in seconds]
    rows = re.findall(r'<tr role="row"><th scope="row".*?</tr>', section[0])
    assert len(rows) == len(widths)
    for row, width in zip(rows, widths, strict=True):
        share = re.search(r"([\d.]+)\u202f%", row)
        assert share is not None
        assert float(share[1]) == pytest.approx(width, abs=0.51)
    styles = re.findall(r'<rect [^>]*class="(kind-\w+)"', section[0])
    assert styles == re.findall(r'class="swatch (kind-\w+)"', section[0])
    assert "<desc>training 68\u202f%," in section[0]


def test_words_say_what_took_the_time_and_when_something_was_there(make: Any) -> None:
    manifest = make.searched()
    said = [make.words(text).replace("\u202f", " ") for text in spending.sentences(manifest)]
    seconds = [item.seconds for item in manifest.candidates]
    assert said[0] == "Of 31 min 40 s, training took 68 %, judging and measuring 16 %, waiting 1.6 %."
    assert said[1].endswith(f"after {seconds[1]:.1f} s of trying: number 2, fuse.")
    assert len(said) == 2


def test_where_candidates_ran_side_by_side_there_is_no_other(make: Any) -> None:
    manifest = make.searched(elapsed_s=60.0)
    assert "other" not in spending.spent(manifest)
    assert any("side by side" in text for text in spending.sentences(manifest))


def test_kinds_that_are_not_known_are_told_too(make: Any) -> None:
    candidate = make.candidate("fuse", "accepted", "", spent={"thinking": 3.0}, seconds=3.0)
    manifest = make.searched(candidates=(candidate,), elapsed_s=None)
    assert spending.spent(manifest) == {"thinking": 3.0}
    assert "thinking" in make.Page(render(manifest)).text


def test_the_first_that_pays_counts_what_was_refused_before_it_and_not_the_original(make: Any) -> None:
    original = make.candidate("as it is", "accepted", "", seconds=50.0, spent={"measuring": 50.0})
    refused = make.candidate("a", "refused", "", seconds=20.0, spent={"judging": 20.0})
    accepted = make.candidate("b", "accepted", "", seconds=4.0, spent={"judging": 4.0})
    said = spending.sentences(make.searched(candidates=(original, refused, accepted, accepted)))
    assert make.words(said[-1]) == "The first recipe that pays was there after 24.0 s of trying: number 3, b."
    none = spending.sentences(make.searched(candidates=(original, refused)))
    assert not any("first recipe" in text for text in none)
