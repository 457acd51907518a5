"""Gates against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openglm.bundle.manifest import Gate
from openglm.dynamic.gates import wake
from openglm.dynamic.gates.confidence import Confidence
from openglm.dynamic.gates.entropy import Entropy
from openglm.dynamic.gates.gate import GO_ON, LEAVE, kinds, parse, probabilities
from openglm.dynamic.gates.learned import features, learn
from openglm.dynamic.gates.length import Length
from openglm.dynamic.gates.patience import Patience
from openglm.dynamic.gates.size import Size
from openglm.dynamic.gates.tokens import Tokens
from openglm.errors import InputError

LOGITS = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.floats(-30, 30, width=32)
)


@given(LOGITS)
def test_confidence_is_the_largest_of_a_softmax(logits: np.ndarray) -> None:
    powers = np.exp(logits.astype(np.float64))
    expected = (powers / powers.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(Confidence.score(logits), expected, rtol=1e-9)
    routes = Confidence(threshold=0.7).decide({"logits": logits})
    assert (routes == np.where(Confidence.score(logits) >= 0.7, LEAVE, GO_ON)).all()


@given(LOGITS)
def test_entropy_is_a_share_of_its_maximum(logits: np.ndarray) -> None:
    shares = probabilities(logits)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.nansum(shares * np.log(shares), axis=1) / np.log(logits.shape[1])
    np.testing.assert_allclose(Entropy.score(logits), expected, atol=1e-9)
    assert (Entropy.score(logits) <= 1 + 1e-9).all()


def test_one_logit_is_that_of_a_sigmoid() -> None:
    np.testing.assert_allclose(probabilities(np.array([[2.0]]))[0, 1], 1 / (1 + np.exp(-2.0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "gate",
    [
        Confidence(threshold=0.0),
        Entropy(threshold=1.0),
        Patience(patience=1),
        learn(np.array([[3.0, 0.0], [0.0, 0.1]]), np.array([True, False]), "logits", 0.0),
    ],
    ids=lambda gate: gate.kind,
)
def test_what_is_no_number_never_leaves(gate: object, bad: float) -> None:
    state = {"logits": np.array([[bad, 0.0], [9.0, 0.0]], np.float32)}
    for _ in range(3):
        routes = gate.decide(state)  # type: ignore[attr-defined]
        assert routes[0] == GO_ON
    assert routes[1] == LEAVE


SHARING = (Confidence(threshold=0.7), Entropy(threshold=0.4), wake.Wake(classes=(1,), threshold=0.6))


@given(
    arrays(np.float32, st.tuples(st.just(1), st.integers(1, 40)), elements=st.floats(-30, 30, width=32)),
    st.sampled_from(SHARING),
)
def test_a_row_alone_goes_as_among_others(logits: np.ndarray, gate: Confidence) -> None:
    if gate.kind == "wake" and logits.shape[1] == 1:
        logits = logits.repeat(2, axis=1)
    twice = {"logits": logits.repeat(2, axis=0)}
    assume(abs(float(gate.score(logits)[0]) - gate.threshold) > 1e-9)  # rounding may go either way there
    (both,) = gate.split(twice)
    (alone,) = gate.split({"logits": logits})
    assert (alone.route, alone.rows.tolist()) == (both.route, [0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("gate", SHARING, ids=lambda gate: gate.kind)
def test_a_row_alone_that_is_no_number_goes_on(gate: Confidence, bad: float) -> None:
    (passed,) = gate.split({"logits": np.array([[9.0, bad]], np.float32)})
    assert passed.route == GO_ON


def test_what_is_no_number_wakes() -> None:
    gate = wake.Wake(classes=(1,), threshold=0.9)
    assert list(gate.decide({"logits": np.array([[np.nan, 0.0], [5.0, 0.0], [0.0, 5.0]])})) == [
        GO_ON,
        LEAVE,
        GO_ON,
    ]


@given(
    arrays(np.float64, st.integers(1, 200), elements=st.floats(0, 1)),
    st.floats(0, 0.99),
)
def test_no_more_wanted_inputs_are_missed_than_allowed(scores: np.ndarray, allowed: float) -> None:
    logits = np.log(np.stack([1 - scores, scores], axis=1) + 1e-300)  # whose softmax they are
    wanted = np.ones(len(scores), bool)
    gate = wake.Wake(classes=(1,), threshold=0).set_by(logits, wanted, allowed)
    scores, limit = gate.score(logits), gate.threshold
    assert (scores < limit).mean() <= allowed
    above = scores[scores > limit]
    if len(above):  # it could not have been higher
        assert (scores < above.min()).mean() > allowed


def test_patience_waits_for_answers_that_agree() -> None:
    gate = Patience(patience=2)
    state: dict[str, np.ndarray] = {}
    answers = [[0, 0], [0, 1], [0, 1], [0, 1]]
    found = []
    for answer in answers:
        state["logits"] = np.eye(2)[answer]
        found.append(list(gate.decide(state)))
    assert found == [[GO_ON, GO_ON], [GO_ON, GO_ON], [LEAVE, GO_ON], [LEAVE, LEAVE]]


def test_numbers_agree_within_the_tolerance() -> None:
    gate = Patience(patience=1, tolerance=0.1)
    state = {"logits": np.array([[1.0], [1.0]])}
    gate.decide(state)
    state["logits"] = np.array([[1.05], [1.2]])
    assert list(gate.decide(state)) == [LEAVE, GO_ON]


def test_a_learned_gate_finds_what_goes_wrong() -> None:
    rng = np.random.default_rng(0)
    margin = rng.uniform(0, 6, 400)
    logits = np.stack([margin, np.zeros(400)], axis=1)
    stays = rng.uniform(size=400) < 1 / (1 + np.exp(-(margin - 2) * 2))
    gate = learn(logits, stays, "logits", 0.9)
    leaves = gate.decide({"logits": logits}) == LEAVE
    assert 0.2 < leaves.mean() < 0.8
    assert stays[leaves].mean() > 0.9 > stays[~leaves].mean()
    assert features(logits).shape == (400, 3)


def test_a_learned_gate_bears_rows_of_one_kind() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 3))
    assert np.isfinite(learn(logits, np.ones(20, bool), "logits", 0.5).weights).all()


def test_rows_are_cut_to_their_bucket() -> None:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0], [1] * 6])
    ids = np.arange(24).reshape(4, 6)
    gate = Length(buckets=(2, 5), cut=("attention_mask", "ids"))
    groups = gate.split({"attention_mask": mask, "ids": ids})
    assert [(group.route, list(group.rows), group.state["ids"].shape) for group in groups] == [
        (0, [0, 2], (2, 2)),
        (1, [1], (1, 5)),
        (2, [3], (1, 6)),
    ]
    np.testing.assert_array_equal(groups[0].state["ids"], ids[[0, 2], :2])


def test_a_hole_in_the_mask_is_within_the_length() -> None:
    assert list(Length.lengths(np.array([[1, 0, 1, 0], [0, 0, 0, 0]]))) == [3, 0]


@pytest.mark.parametrize(("by", "routes"), [("longest", [1]), ("shortest", [0]), ("product", [1])])
def test_size_looks_at_the_axes_named(by: str, routes: list[int]) -> None:
    gate = Size(input="x", axes=(2, 3), limit=40, by=by)
    assert list(gate.decide({"x": np.zeros((1, 3, 64, 32))})) == routes


@settings(max_examples=60)
@given(st.integers(1, 5), st.integers(1, 9), st.floats(0, 2), st.integers(0, 10**6))
def test_tokens_keep_their_order_and_what_matters(
    rows: int, length: int, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    there = np.arange(length)[None] < lengths[:, None]
    low = float(np.finfo(np.float32).min)
    state = {
        "importance": np.where(there, rng.uniform(0, 1, (rows, length)), 0),
        "mask": np.where(there, 0.0, low).astype(np.float32)[:, None, None, :],
        "hidden": rng.normal(size=(rows, length, 4)),
    }
    gate = Tokens(
        importance="importance", mask="mask", absent=low, threshold=threshold,
        axes={"mask": 3, "hidden": 1, "importance": 1},
    )  # fmt: skip
    (passed,) = gate.split(state)
    for row in range(rows):
        own = state["importance"][row, : lengths[row]]
        kept = np.flatnonzero((own >= threshold * own.mean()) | (np.arange(len(own)) == 0))
        left = np.flatnonzero(passed.state["mask"][row, 0, 0] == 0)
        assert list(left) == list(range(len(kept)))
        np.testing.assert_array_equal(passed.state["hidden"][row, left], state["hidden"][row, kept])


@settings(max_examples=60)
@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 10), st.floats(0, 1), st.integers(0, 10**6))
def test_so_many_tokens_stay_as_was_settled(
    rows: int, length: int, least: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    there = np.arange(length)[None] < lengths[:, None]
    importance = np.where(there, rng.permuted(np.arange(rows * length)).reshape(rows, length) + 1.0, 0)
    gate = Tokens(importance="importance", mask="mask", absent=0, least=least, share=share, axes={"mask": 1})
    kept = gate.kept(importance, there.astype(np.int64))
    for row, own in enumerate(lengths):
        count = min(own, least + int(np.ceil(share * max(0, own - least))))
        others = sorted(range(1, own), key=lambda token: -importance[row, token])
        assert set(np.flatnonzero(kept[row])) == {0, *others[: count - 1]}


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, float("nan")]), min_size=1, max_size=12),
    st.integers(1, 4), st.integers(0, 3), st.floats(0, 1), st.sampled_from([0.0, 1.0]), st.booleans(),
)  # fmt: skip
def test_a_single_row_keeps_what_it_keeps_among_others(
    importance: list[float], least: int, first: int, share: float, threshold: float, padded: bool
) -> None:
    gate = Tokens(
        importance="importance", mask="mask", absent=0, least=least, share=share, first=first,
        threshold=threshold, axes={"mask": 1, "place": 1},
    )  # fmt: skip
    mask = np.ones((1, len(importance)), np.int64)
    mask[0, len(importance) - padded :] = 0
    state = {"importance": np.array([importance]), "mask": mask, "place": np.arange(len(importance))[None]}
    (passed,) = gate.split(state)
    kept = np.flatnonzero(gate.kept(state["importance"], mask)[0])
    assert passed.state["place"][0][passed.state["mask"][0] == 1].tolist() == kept.tolist()


def test_tokens_by_a_threshold_as_bundles_had_it() -> None:
    had = {"importance": "i", "mask": "m", "absent": 0.0, "threshold": 1.0, "scale": 0.5, "axes": {"m": 1}}
    gate = parse(Gate(name="g", kind="tokens", settings=had, routes=("x",)))
    assert isinstance(gate, Tokens)
    assert gate.kept(np.array([[0.0, 0.1, 0.9, 1.0]]), np.ones((1, 4))).tolist() == [
        [True, False, True, True]
    ]


def test_tokens_that_are_no_number_stay() -> None:
    gate = Tokens(importance="i", mask="m", absent=0, threshold=1.0, axes={"m": 1})
    kept = gate.kept(np.array([[np.nan, np.nan, np.nan]]), np.array([[1, 1, 0]]))
    assert kept.tolist() == [[True, True, False]]
    gate = Tokens(importance="i", mask="m", absent=0, least=2, share=0, axes={"m": 1})
    kept = gate.kept(np.array([[0.1, 0.5, np.nan, 0.6]]), np.ones((1, 4)))
    assert kept.tolist() == [[True, False, True, False]]


TOKENS = {"importance": "i", "mask": "m", "absent": 0, "axes": {"m": 1}}


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        ("confidence", {"threshold": 1.2}, "threshold"),
        ("confidence", {"threshold": float("nan")}, "threshold"),
        ("entropy", {"threshold": -0.1}, "threshold"),
        ("patience", {"patience": 0}, "patience"),
        ("length", {"buckets": (8, 8)}, "ascend"),
        ("tokens", {**TOKENS, "share": 1.5}, "share"),
        ("tokens", {**TOKENS, "share": float("nan")}, "share"),
        ("tokens", {**TOKENS, "least": 0}, "least"),
        ("wake", {"threshold": 0.5, "classes": ()}, "classes"),
        ("confidence", {"threshold": 0.5, "limit": 3}, "limit"),
        ("konfidence", {"threshold": 0.5}, "no gate of kind"),
    ],
)
def test_settings_outside_their_range_are_refused(kind: str, given: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse(Gate(name="g", kind=kind, settings=given, routes=(None, "x")))


def test_a_gate_has_a_target_for_each_route() -> None:
    with pytest.raises(InputError, match="3 routes"):
        parse(Gate(name="g", kind="confidence", settings={"threshold": 0.5}, routes=(None, "x", "y")))


def test_every_kind_is_known_by_its_name() -> None:
    assert set(kinds()) == {
        "confidence", "entropy", "learned", "length", "patience", "size", "tokens", "wake",
    }  # fmt: skip
