"""Thresholds set again: against what the gates then do, row by row, on the data they were set on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.program import ProgramRunner
from openglm.dynamic.recalibration import Recalibrated, recalibrate
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec

WIDTH, CLASSES, ROWS = 8, 3, 1500
RNG = np.random.default_rng(0)
HEAD = 3 * RNG.normal(size=(WIDTH, CLASSES))
NEAR = HEAD + 0.5 * RNG.normal(size=HEAD.shape)
WRONG = np.linalg.svd(NEAR - HEAD)[0][:, 0]
"""Along this direction the exit errs most."""
ANSWER = (TensorSpec(name="logits", dtype="float32", shape=("batch", CLASSES)),)
KINDS: dict[str, dict[str, Any]] = {
    "confidence": {"threshold": 0.6},
    "entropy": {"threshold": 0.7},
    "learned": {"weights": [1.0, 0.0, 0.0], "bias": 0.0, "threshold": 0.6},
    "wake": {"threshold": 0.5, "classes": [1]},
}
ALLOWED: dict[str, float] = {"max_drop": 0.05, "certainty": 0.9, "false_rejects": 0.02}


class Linear:
    """A segment by hand."""

    inputs = ("x",)

    def __init__(self, weight: np.ndarray) -> None:
        self._weight = weight

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": (arrays["x"] @ self._weight).astype(np.float32)}


def load(segment: Segment) -> Linear:
    return Linear({"first": NEAR, "second": 0.5 * (NEAR + HEAD), "last": HEAD}[segment.name])


def segment(name: str, work: float, following: str | None) -> Segment:
    return Segment(name=name, models={"onnxruntime": "x"}, outputs=ANSWER, work=work, next=following)


def exits(kind: str) -> Program:
    gate = Gate(name="gate", kind=kind, settings=KINDS[kind], routes=(None, "last"))
    return Program(segments=(segment("first", 0.25, "gate"), segment("last", 0.75, None)), gates=(gate,))


def samples(x: np.ndarray, *, labels: bool = True) -> Samples:
    right = (x @ HEAD).argmax(1)
    rows = [({"x": row[None]}, float(right[place]) if labels else None) for place, row in enumerate(x)]
    return Samples.of(rows)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, WIDTH)).astype(np.float32)


@pytest.fixture
def shifted(x: np.ndarray) -> np.ndarray:
    return x + 3 * np.sign(x @ WRONG)[:, None] * WRONG


def again(program: Program, given: Samples, **changes: float) -> Recalibrated:
    return recalibrate(program, ANSWER, load, given, **{**ALLOWED, **changes})


def answers(program: Program, x: np.ndarray) -> np.ndarray:
    return ProgramRunner(program, ANSWER, load).run({"x": x.astype(np.float32)})["logits"].argmax(1)


@pytest.mark.parametrize("kind", ["confidence", "entropy", "learned"])
@pytest.mark.parametrize("labels", [True, False])
def test_what_leaves_costs_no_more_than_allowed(
    x: np.ndarray, shifted: np.ndarray, kind: str, labels: bool
) -> None:
    found = again(exits(kind), samples(x, labels=labels))
    wrong = (answers(found.program, x) != (x @ HEAD).argmax(1)).mean()
    assert wrong == pytest.approx(found.after.drop)
    assert wrong <= ALLOWED["max_drop"]
    assert found.after.work < 1
    assert "Inputs leave at exit 1" in found.notes[0]
    moved = again(found.program, samples(shifted, labels=labels))
    assert moved.before.drop > ALLOWED["max_drop"], "the thresholds of before let too many leave"
    assert moved.after.drop <= ALLOWED["max_drop"]
    assert (answers(moved.program, shifted) != (shifted @ HEAD).argmax(1)).mean() <= ALLOWED["max_drop"]


def test_where_nothing_is_shown_nothing_leaves_until_it_is(x: np.ndarray) -> None:
    few = again(exits("confidence"), samples(x[:40]))
    assert few.program.gates[0].routes == ("last", "last")
    assert few.after == (1.0, 0.0)
    assert few.before.work < 1
    np.testing.assert_array_equal(answers(few.program, x), (x @ HEAD).argmax(1))
    assert few.notes[0].startswith("No input leaves early: 20 samples do not show")
    many = again(few.program, samples(x))
    assert many.program.gates[0].routes == (None, "last")
    assert many.after.work < 1


def test_a_gate_that_wakes(x: np.ndarray, shifted: np.ndarray) -> None:
    found = again(exits("wake"), samples(shifted), false_rejects=0.02)
    wanted = (shifted @ HEAD).argmax(1) == 1
    _, trace = ProgramRunner(found.program, ANSWER, load).traced({"x": shifted.astype(np.float32)})
    sleeps = np.array(["last" not in way.nodes for way in trace.rows])
    assert sleeps[wanted].sum() <= 0.02 * wanted.sum() + 1, "one may be at the threshold itself, and rounding"
    assert sleeps[~wanted].any()
    with pytest.raises(InputError, match="labelled"):
        again(exits("wake"), samples(x, labels=False))


def test_exits_behind_a_gate_that_wakes(shifted: np.ndarray) -> None:
    gates = tuple(
        Gate(name=name, kind=kind, settings=KINDS[kind], routes=(None, onward))
        for name, kind, onward in (("gate", "wake", "second"), ("later", "confidence", "last"))
    )
    segments = (segment("first", 0.2, "gate"), segment("second", 0.4, "later"), segment("last", 0.4, None))
    with pytest.raises(InputError, match="wakes a model that has exits of its own"):
        again(Program(segments=segments, gates=gates), samples(shifted))


def test_patience_of_two_exits(x: np.ndarray) -> None:
    gates = tuple(
        Gate(name=name, kind="patience", settings={"patience": 2}, routes=(None, onward))
        for name, onward in (("one", "second"), ("two", "last"))
    )
    parts = (segment("first", 0.2, "one"), segment("second", 0.3, "two"), segment("last", 0.5, None))
    found = again(Program(segments=parts, gates=gates), samples(x), max_drop=0.1)
    said = [(x @ weight).argmax(1) for weight in (NEAR, 0.5 * (NEAR + HEAD), HEAD)]
    wanted = np.where(said[0] == said[1], said[1], said[2])
    np.testing.assert_array_equal(answers(found.program, x), wanted)
    assert found.program.gates[1].settings["patience"] == 1
    assert found.after.drop == pytest.approx((wanted != said[2]).mean())


class Words:
    """Tokens whose value is their importance: the answer is the mean of those that are there."""

    inputs = ("x", "mask")

    def __init__(self, name: str) -> None:
        self._looks = name == "look"

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._looks:
            return {"importance": np.abs(arrays["x"]) * arrays["mask"]}
        mean = (arrays["x"] * arrays["mask"]).sum(1) / arrays["mask"].sum(1)
        return {"logits": np.stack([mean, -mean], axis=1)}


def tokens(**how: float) -> Program:
    settings = {
        "importance": "importance", "mask": "mask", "absent": 0.0, "first": 0, **how,
        "axes": {"x": 1, "mask": 1},
    }  # fmt: skip
    gate = Gate(name="gate", kind="tokens", settings=settings, routes=("answer",))
    parts = (segment("look", 0.1, "gate"), segment("answer", 0.9, None))
    return Program(segments=parts, gates=(gate,))


@pytest.mark.parametrize("harmless", [True, False])
@pytest.mark.parametrize("before", [{"threshold": 1.0}, {"least": 8, "share": 0.2}])
def test_tokens_go_where_that_is_harmless(harmless: bool, before: dict[str, float]) -> None:
    rng = np.random.default_rng(2)
    sign = rng.choice([-1.0, 1.0], size=800)
    rows = []
    for one in sign:
        small = 0.01 * rng.normal(size=49) if harmless else -0.021 * one * np.ones(49)
        x = np.concatenate([[one], small])[None].astype(np.float32)
        rows.append(({"x": x, "mask": np.ones_like(x)}, None))
    program = tokens(**before)
    found = recalibrate(program, ANSWER, lambda part: Words(part.name), Samples.of(rows), **ALLOWED)
    settings = found.program.gates[0].settings
    assert settings["threshold"] == 0.0, "numbers come in the place of thresholds"
    if harmless:
        assert settings["share"] < 0.5
        assert found.after.work < 0.5
        assert found.notes[0].startswith("Tokens are dropped")
        assert found.after.drop <= 0.05
    else:
        assert settings["share"] == 1.0, "with a token or two less the answer turns"
        assert found.notes[0].startswith("No token is dropped")
        assert found.after.drop == 0
        assert found.after.work == 1
        assert found.before.drop == 1


def branching(gate: Gate) -> Program:
    parts = (segment("first", 0.25, None), segment("last", 1.0, None))
    return Program(segments=parts, gates=(gate,), start=gate.name)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (lambda: Program(segments=(segment("last", 1.0, None),)), "no thresholds to set"),
        (
            lambda: branching(
                Gate(
                    name="branch", kind="size", routes=("first", "last"),
                    settings={"input": "x", "axes": [1], "limit": 3},
                )
            ),
            "goes by size, not by a threshold",
        ),
    ],
)  # fmt: skip
def test_programs_without_thresholds(x: np.ndarray, program: Callable[[], Program], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        again(program(), samples(x))
