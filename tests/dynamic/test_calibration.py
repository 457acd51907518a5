"""Thresholds of exits against a slow definition, and what is claimed of them against simulated data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.dynamic.calibration import Calibrated, Option, _threshold, calibrate, leaving, proven


def losing(rng: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Rows of which half differ from the end, by 1 for better or for worse, with this mean."""
    return rng.choice([-1.0, 0.0, 1.0], count, p=[0.25 - mean / 2, 0.5, 0.25 + mean / 2])


def constant(rng: np.random.Generator, count: int, mean: float) -> np.ndarray:
    return np.full(count, mean)


def rare(rng: np.random.Generator, count: int, mean: float) -> np.ndarray:
    """Rows that never gain, and seldom lose all."""
    return (rng.random(count) < mean).astype(np.float64)


@pytest.mark.parametrize("certainty", [0.8, 0.9])
@pytest.mark.parametrize("rows", [losing, constant, rare])
@pytest.mark.parametrize("count", [20, 800])
def test_what_loses_too_much_seldom_passes(certainty: float, rows: object, count: int) -> None:
    rng = np.random.default_rng(0)
    draws, limit = 300, 0.02
    assert callable(rows)
    passed = sum(proven(rows(rng, count, limit + 1e-4), limit, certainty) for _ in range(draws))
    assert passed <= (1 - certainty) * draws


def test_what_loses_far_less_passes() -> None:
    rng = np.random.default_rng(0)
    assert all(proven(losing(rng, 1000, -0.1), 0.05, 0.9) for _ in range(50))
    assert all(proven(rare(rng, 1000, 0.005), 0.05, 0.9) for _ in range(50))
    assert proven(np.zeros(1000), 0.005, 0.9)


def test_few_rows_prove_nothing() -> None:
    assert not proven(np.zeros(0), 0.5, 0.9)
    assert not proven(np.zeros(1), 0.05, 0.9)
    assert not proven(np.zeros(200), 0.005, 0.9)


def test_how_many_rows_it_takes_at_least() -> None:
    """As docs/dynamic.md has it."""
    for max_drop, count in ((0.005, 542), (0.01, 271)):
        assert not proven(np.zeros(count - 1), max_drop, 0.9)
        assert proven(np.zeros(count), max_drop, 0.9)


def test_everything_is_allowed() -> None:
    assert proven(np.ones(20), 1.0, 0.9)
    assert not proven(np.zeros(0), 1.0, 0.9)


scores_of = st.sampled_from([-np.inf, np.nan, 0.0, 0.25, 0.5, 0.75, 1.0])
excess_of = st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0])


@given(st.lists(st.tuples(scores_of, excess_of), max_size=12), st.sampled_from([0.0, 0.1, 0.25, 1.0]))
def test_threshold_is_the_least_that_puts_no_more_at_risk(
    rows: list[tuple[float, float]], allowed: float
) -> None:
    scores, excess = np.array(rows, np.float64).reshape(-1, 2).T

    def risk(least: float) -> float:
        lost = np.where(np.isfinite(scores) & (scores >= least), excess, 0.0)
        return float(lost.mean() + 2 * ((lost**2).mean() / len(lost)) ** 0.5)

    possible = [least for least in set(scores[np.isfinite(scores)]) if risk(least) <= allowed + 1e-9]
    assert _threshold(scores, excess, allowed) == min(possible, default=None)


def test_equal_scores_leave_together() -> None:
    scores = np.array([1.0, 0.5, 0.5, 0.2])
    # The first of the two loses nothing, and cannot leave without the second.
    assert _threshold(scores, np.array([0.0, 0.0, 1.0, 1.0]), 0.7) == 1.0
    assert _threshold(scores, np.array([0.0, 0.0, 1.0, 1.0]), 0.75) == 0.5


def test_what_loses_and_wins_alike_does_not_keep_from_leaving_what_is_sure() -> None:
    """Half the rows answer as the end does; of the others as many hundreds get worse as get better."""
    work = []
    for seed in range(10):
        sure, luck = np.random.default_rng(seed).random((2, 3000))
        losses = np.zeros((2, 3000))
        losses[:, sure < 0.5] = [luck[sure < 0.5] < 0.32, luck[sure < 0.5] > 0.7]
        work.append(calibrate([Option(sure[None], losses, np.array([0.5, 1.0]))], 0.01, 0.9).work)
    assert np.median(work) == pytest.approx(0.74, abs=0.02)


@given(st.data())
def test_leaving_is_at_the_first_exit_that_is_sure(data: st.DataObject) -> None:
    exits, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 6))
    drawn = st.lists(st.lists(scores_of, min_size=rows, max_size=rows), min_size=exits, max_size=exits)
    scores = np.array(data.draw(drawn)).reshape(exits, rows)
    levels = st.sampled_from([None, 0.25, 0.6, 1.0])
    thresholds = tuple(data.draw(st.lists(levels, min_size=exits, max_size=exits)))
    slow = [
        next(
            (
                place
                for place, least in enumerate(thresholds)
                if least is not None and scores[place, row] >= least
            ),
            exits,
        )
        for row in range(rows)
    ]
    assert leaving(scores, thresholds).tolist() == slow


def test_no_number_never_leaves() -> None:
    assert leaving(np.array([[np.nan, 1.0], [np.nan, np.nan]]), (-np.inf, 0.0)).tolist() == [2, 0]


WORK = np.array([0.25, 0.5, 1.0])


def samples(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (2, rows) and losses (3, rows) of two exits: each is the more often right, the surer and the
    later it is, and wrong mostly where the end is."""
    hard, luck = rng.random((2, count))
    scores = np.stack([1 - hard + rng.normal(0, noise, count) for noise in (0.2, 0.1)])
    wrong = luck + rng.normal(0, 0.02, (3, count)) < np.array([[0.6], [0.3], [0.1]]) * hard**2
    return scores, wrong.astype(np.float64)


def lost(found: Calibrated, scores: np.ndarray, losses: np.ndarray) -> float:
    place = leaving(scores, found.thresholds)
    return float((losses[place, np.arange(len(place))] - losses[-1]).mean())


def test_the_claim_holds_on_other_data() -> None:
    rng = np.random.default_rng(0)
    fresh = samples(rng, 100_000)
    draws, max_drop = 120, 0.03
    found = [calibrate([Option(*samples(rng, 1500), WORK)], max_drop, 0.9) for _ in range(draws)]
    assert sum(lost(one, *fresh) > max_drop for one in found) <= 0.1 * draws
    # It is no empty claim: some leave in nearly every draw.
    assert sum(any(least is not None for least in one.thresholds) for one in found) >= 0.9 * draws
    assert np.mean([one.work for one in found]) < 0.9


def test_what_is_told_is_of_the_rows_that_decided() -> None:
    rng = np.random.default_rng(1)
    scores, losses = samples(rng, 1501)
    found = calibrate([Option(scores, losses, WORK)], 0.05, 0.9)
    deciding = slice(1, None, 2)
    assert found.rows == 750
    assert found.drop == pytest.approx(lost(found, scores[:, deciding], losses[:, deciding]))
    assert found.work == pytest.approx(WORK[leaving(scores[:, deciding], found.thresholds)].mean())


def test_more_is_allowed_more_leave() -> None:
    scores, losses = samples(np.random.default_rng(2), 4000)
    work = [calibrate([Option(scores, losses, WORK)], drop, 0.9).work for drop in (0.01, 0.05, 0.2, 1.0)]
    assert work == sorted(work, reverse=True)
    assert work[-1] == pytest.approx(WORK[0], abs=0.01)


def test_a_cut_has_to_pay() -> None:
    rng = np.random.default_rng(3)
    sure = rng.random(4000)
    losses = np.zeros((4, 4000))
    work = np.array([0.3, 0.32, 0.6, 1.0])
    # All leave at the second who leave at the first, and hardly a row at the third who did not.
    scores = np.stack([np.where(sure < 0.02, 1.0, 0.0), np.ones(4000), np.ones(4000)])
    losses[0, sure >= 0.02] = 1.0
    found = calibrate([Option(scores, losses, work)], 0.02, 0.9)
    assert found.thresholds == (None, 1.0, None)
    assert found.work == pytest.approx(0.32)
    # The same exit where it saves more than it costs.
    scores[0], losses[0] = np.where(sure < 0.5, 1.0, 0.0), sure >= 0.5
    found = calibrate([Option(scores, losses, np.array([0.2, 0.8, 0.9, 1.0]))], 0.02, 0.9)
    assert found.thresholds == (1.0, 1.0, None)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_nothing_proven_nobody_leaves(count: int) -> None:
    scores, losses = samples(np.random.default_rng(0), count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = calibrate([Option(scores, losses, WORK)], 0.005, 0.9)
    assert found == Calibrated((None, None), 0.0, 1.0, count // 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_that_are_no_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, losses = samples(rng, 600)
    scores[rng.random(scores.shape) < 0.3] = np.nan
    found = calibrate([Option(scores, losses, WORK)], 0.1, 0.8)
    place = leaving(scores, found.thresholds)
    assert (place[np.isnan(scores).all(0)] == 2).all()


def test_of_ways_to_run_the_one_with_least_work_is_taken() -> None:
    """The second way takes less and loses too much, the third loses a little."""
    rng = np.random.default_rng(4)
    scores, losses = samples(rng, 4000)
    bold, careful = losses.copy(), losses.copy()
    bold[-1] = rng.random(4000) < 0.3
    careful[-1, ::100] = 1
    work = np.stack([np.full(4000, share) for share in WORK])
    ways = [
        Option(np.full_like(scores, np.nan), losses, work),
        Option(np.full_like(scores, np.nan), bold, 0.3 * work),
        Option(np.full_like(scores, np.nan), careful, 0.6 * work, np.array([1, 1, 1])),
    ]
    found = calibrate(ways, 0.05, 0.9)
    assert found.option == 2
    assert found.work == pytest.approx(0.6)
    assert found.drop == pytest.approx((careful[-1] - losses[-1])[1::2].mean())
    # With exits a way may be worth more, and one whose cuts take what it saves is worth nothing.
    assert calibrate([ways[0], Option(scores, careful, 0.6 * work)], 0.05, 0.9).work < 0.6
    assert calibrate([ways[0], ways[2]._replace(cuts=np.full(3, 30))], 0.05, 0.9).option == 0


def test_the_claim_holds_for_ways_to_run() -> None:
    """Of many ways with fewer tokens, each of which loses what it saves by chance."""
    draws, max_drop, shares = 60, 0.03, np.linspace(0, 0.1, 12)
    rng, risky = np.random.default_rng(5), 0
    none = np.zeros((0, 1500))
    for _ in range(draws):
        ways = [
            Option(none, (rng.random((1, 1500)) < share).astype(float), np.array([1 - share]))
            for share in shares
        ]
        risky += shares[calibrate(ways, max_drop, 0.9).option] > max_drop
    assert risky <= 0.1 * draws
