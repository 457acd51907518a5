"""Planners of addresses against a brute force over all orders, and what is proven against what is so."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.memory import greedy
from openglm.memory.allocation import allocate
from openglm.memory.exact import Infeasible, Search
from openglm.memory.problem import Span, conflicts, independent, lower_bound, overlap, top
from planned_graphs import HOLE


def spans(last: int, size: int, most: int) -> st.SearchStrategy[list[Span]]:
    times = st.tuples(st.integers(0, last), st.integers(0, last)).filter(lambda pair: pair[0] != pair[1])
    span = st.builds(lambda pair, size: Span(*sorted(pair), size), times, st.integers(1, size))
    return st.lists(span, min_size=1, max_size=most)


def brute_force(spans: list[Span]) -> int:
    """The lowest of all orders in which each buffer goes to the lowest gap: one of them is optimal."""
    beside = conflicts(spans)
    orders = permutations(range(len(spans)))
    return min(top(spans, greedy._place(spans, order, beside, False)) for order in orders)


@given(spans(8, 9, 6))
@settings(max_examples=60, deadline=None)
def test_the_search_finds_the_optimum_and_proves_it(spans: list[Span]) -> None:
    found, least = allocate(spans, seconds=20), brute_force(spans)
    assert overlap(spans, found.offsets) is None
    assert (found.top, found.least, found.optimal) == (least, least, True)


@given(spans(8, 9, 6))
@settings(max_examples=60, deadline=None)
def test_a_capacity_is_kept_or_proven_too_small(spans: list[Span]) -> None:
    least = brute_force(spans)
    for group in independent(spans):
        part = [spans[index] for index in group]
        offsets = Search(part).within(least, 20)
        assert offsets is not None
        assert overlap(part, offsets) is None
        assert top(part, offsets) <= least
        with pytest.raises(Infeasible):
            Search(part).within(brute_force(part) - 1, 20)


@given(spans(40, 50, 40))
@settings(max_examples=40, deadline=None)
def test_every_plan_is_one(spans: list[Span]) -> None:
    found = allocate(spans, seconds=0.2)
    assert overlap(spans, found.offsets) is None
    assert lower_bound(spans) <= found.least <= found.top == top(spans, found.offsets)
    for offsets in (greedy.by_size(spans), greedy.best(spans)):
        assert overlap(spans, offsets) is None
        assert found.top <= top(spans, offsets)


def test_more_than_is_alive_may_be_needed() -> None:
    found = allocate(HOLE, seconds=60)
    assert (lower_bound(HOLE), found.top, found.least) == (10, 11, 11)


def test_largest_first_goes_into_the_smallest_gap() -> None:
    spans = [Span(0, 9, 5), Span(0, 2, 4), Span(3, 9, 3), Span(3, 9, 2)]
    # 5 at 0; 4 at 5; 3 and 2 live after the 4 and take its place.
    assert greedy.by_size(spans) == [0, 5, 5, 8]


def test_enough_is_enough() -> None:
    spans = [Span(0, 2, 4), Span(1, 3, 6), Span(2, 4, 4)]
    assert allocate(spans, enough=100).top <= 100
    assert allocate(spans, seconds=0).top >= lower_bound(spans)


def test_nothing_and_empty_buffers() -> None:
    assert allocate([]).offsets == ()
    assert allocate([Span(0, 1, 0), Span(0, 1, 3), Span(2, 2, 5)]).offsets == (0, 0, 0)


def test_independent_groups() -> None:
    spans = [Span(0, 2, 1), Span(4, 6, 1), Span(1, 3, 1), Span(3, 4, 1)]
    assert independent(spans) == [[0, 2], [3], [1]]


def test_an_overlap_is_seen() -> None:
    spans = [Span(0, 2, 4), Span(1, 3, 4), Span(2, 4, 4)]
    assert overlap(spans, [0, 4, 0]) is None
    assert overlap(spans, [0, 3, 0]) == (0, 1)
