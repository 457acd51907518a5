"""What pages are written with: figures, scales, markup."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.report import scale, units
from openglm.report.markup import Markup, join, tag


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (units.size(999), "999 B"),
        (units.size(90_356_776), "90.4 MB"),
        (units.size(2.5e9), "2.50 GB"),
        (units.ms(0.004), "4.00 µs"),
        (units.ms(27.12), "27.1 ms"),
        (units.ms(1234.5), "1,234 ms"),
        (units.ms(12_345), "12.3 s"),
        (units.ms(float("nan")), "not a number ms"),
        (units.percent(0.746), "75 %"),
        (units.percent(0.004), "0.4 %"),
        (units.signed(-0.746), "−75 %"),
        (units.score(0.993744), "0.9937"),
        (units.score(1234.5), "1,234.5"),
        (units.spread(1.0, 2.0), "1.00 to 2.00 ms"),
        (units.spread(0.001, 2.0), "1.00 µs to 2.00 ms"),
        (units.duration(59.9), "59.9 s"),
        (units.duration(3700), "1 h 1 min"),
        (units.duration(float("inf")), "∞ s"),
        (units.times(None), "–"),
    ],
)
def test_figures_are_in_human_units(written: str, wanted: str) -> None:
    assert words(written.replace("\u202f", " ")) == wanted


def test_only_markup_is_not_escaped() -> None:
    assert tag("p", "<b>", Markup("<i></i>"), 2, None, ["&"], class_='"', data_x=True, y=None) == (
        '<p class="&quot;" data-x>&lt;b&gt;<i></i>2&amp;</p>'
    )
    assert join("\udc80 a\u202eb\x00") == "? a\ufffdb\ufffd"


@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    most=st.integers(1, 9),
)
def test_ticks_are_few_and_within(low: float, span: float, most: int) -> None:
    found = scale.ticks(low, low + span, most)
    assert 1 <= len(found) <= max(most, 1)
    assert len(set(scale.labels(found))) == len(found)
