"""Programs: every row on its own way, none mixed up, against the same done row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.program import ProgramRunner
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec

ROUTE = {"threshold": 0.8}


class Doubling:
    """A segment by hand: it adds one to `depth` and makes logits whose margin grows by a row's own step."""

    inputs = ("x", "depth", "step")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(arrays["x"]))
        depth = arrays["depth"] + 1
        margin = depth * arrays["step"]
        return {"depth": depth, "logits": np.stack([margin, np.zeros_like(margin), arrays["x"]], axis=1)}


def spec(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", *shape))


def segment(name: str, following: str | None, work: float = 0.25) -> Segment:
    outputs = (spec("depth"), spec("logits", 3))
    return Segment(name=name, models={"onnxruntime": "x"}, next=following, outputs=outputs, work=work)


def exits(count: int) -> Program:
    """`count` segments with a gate after each but the last."""
    segments, gates = [], []
    for index in range(count):
        last = index == count - 1
        segments.append(segment(f"s{index}", None if last else f"g{index}", 1 / count))
        if not last:
            gates.append(
                Gate(name=f"g{index}", kind="confidence", settings=ROUTE, routes=(None, f"s{index + 1}"))
            )
    return Program(segments=tuple(segments), gates=tuple(gates))


def rows(x: Any, step: Any) -> dict[str, np.ndarray]:
    x = np.asarray(x, np.float32)
    return {"x": x, "step": np.asarray(step, np.float32), "depth": np.zeros(len(x), np.float32)}


OUTPUTS = [spec("logits", 3), spec("depth")]


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10**6))
def test_a_batch_gives_what_its_rows_give_alone(count: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    runner = ProgramRunner(exits(count), OUTPUTS, lambda _: Doubling())
    given = rows(rng.normal(size=size), rng.uniform(0, 3, size))
    together, trace = runner.traced(given)
    for row in range(size):
        single = {name: array[row : row + 1] for name, array in given.items()}
        alone, own = runner.traced(single)
        for name, array in runner.run(single).items():
            np.testing.assert_array_equal(together[name][row], alone[name][0])
            np.testing.assert_array_equal(array, alone[name])
        assert own.rows[0].nodes == trace.rows[row].nodes
        assert trace.rows[row].work == pytest.approx(together["depth"][row] / count)


def test_easy_rows_leave_and_the_rest_goes_on_together() -> None:
    made: dict[str, Doubling] = {}

    def load(found: Segment) -> Doubling:
        return made.setdefault(found.name, Doubling())

    runner = ProgramRunner(exits(3), OUTPUTS, load)
    outputs, trace = runner.traced(rows([0, 0, 0, 0], [9, 0.1, 1.6, 0.1]))
    assert [made[f"s{i}"].batches for i in range(3)] == [[4], [3], [2]]
    assert list(outputs["depth"]) == [1, 3, 2, 3]
    assert trace.rows[0].nodes == ("s0", "g0")
    assert trace.rows[1].nodes == ("s0", "g0", "s1", "g1", "s2")
    assert trace.work == pytest.approx((1 + 3 + 2 + 3) / 12)
    assert all(way.milliseconds > 0 for way in trace.rows)


def test_ways_that_meet_again_run_together() -> None:
    program = Program(
        segments=(segment("shallow", "last"), segment("deep", "deeper"), segment("deeper", "last"),
                  segment("last", None)),
        gates=(Gate(name="length", kind="length", settings={"buckets": [2], "mask": "mask"},
                    routes=("shallow", "deep")),),
        start="length",
    )  # fmt: skip
    made: dict[str, Doubling] = {}
    runner = ProgramRunner(program, OUTPUTS, lambda found: made.setdefault(found.name, Doubling()))
    mask = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
    outputs, _ = runner.traced({**rows([0, 1, 2, 3], [0] * 4), "mask": mask})
    assert made["last"].batches == [4]
    assert list(outputs["depth"]) == [3, 2, 3, 2]
    assert list(outputs["logits"][:, 2]) == [0, 1, 2, 3]
    assert set(runner.inputs) == {"x", "step", "depth", "mask"}


def test_an_answer_that_is_no_number_goes_on_and_is_told() -> None:
    runner = ProgramRunner(exits(2), OUTPUTS, lambda _: Doubling())
    outputs, trace = runner.traced(rows([0, np.nan], [9, 9]))
    assert list(outputs["depth"]) == [1, 2]
    assert trace.notes == ("Row 1 had no number for an answer at 'g0', and went on.",)


def test_rows_of_several_lengths_are_filled_with_zeros() -> None:
    class Echo:
        inputs = ("ids", "attention_mask")

        def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"hidden": arrays["ids"][:, :, None].astype(np.float32)}

    program = Program(
        segments=(Segment(name="all", models={}, outputs=(spec("hidden", "sequence", 1),)),),
        gates=(
            Gate(
                name="own_length", kind="length", routes=("all", "all"),
                settings={"buckets": [2], "cut": ["ids", "attention_mask"]},
            ),
        ),
        start="own_length",
    )  # fmt: skip
    runner = ProgramRunner(program, [spec("hidden", "sequence", 1)], lambda _: Echo())
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    found, trace = runner.traced({"ids": np.full((2, 4), 7), "attention_mask": mask})
    assert found["hidden"][:, :, 0].tolist() == [[7, 7, 7], [7, 0, 0]]
    assert [row.work for row in trace.rows] == [0.75, 0.25]


@pytest.mark.parametrize("given", [rows([], []), {**rows([1, 2], [1, 1]), "step": np.zeros(3, np.float32)}])
def test_inputs_without_rows_of_one_number_are_refused(given: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError, match="rows"):
        ProgramRunner(exits(2), OUTPUTS, lambda _: Doubling()).run(given)


def test_a_way_that_ends_without_the_output_is_an_error() -> None:
    class Silent(Doubling):
        def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"depth": arrays["depth"]}

    with pytest.raises(InputError, match="without its output 'logits'"):
        ProgramRunner(exits(1), OUTPUTS, lambda _: Silent()).traced(rows([1], [1]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segments": [("a", "b"), ("b", "a")]}, "loop"),
        ({"segments": [("a", "a")]}, "loop"),
        ({"segments": [("a", "c")]}, "leads to 'c'"),
        ({"segments": [("a", None)], "start": "z"}, "leads to 'z'"),
        ({"segments": [("a", None), ("a", None)]}, "two nodes"),
        ({"segments": [("a", None), ("b", None)]}, "never comes to its 'b'"),
    ],
)
def test_programs_that_cannot_run_are_refused(change: dict[str, Any], says: str) -> None:
    segments = [{"name": name, "models": {}, "next": following} for name, following in change["segments"]]
    with pytest.raises(ValidationError, match=says):
        Program.model_validate({"segments": segments, "start": change.get("start")})


def test_one_segment_is_run_as_it_is_whatever_its_rows() -> None:
    class Plain:
        inputs = ("x",)

        def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": arrays["x"] + 1}

    program = Program(segments=(Segment(name="model", models={}),))
    runner = ProgramRunner(program, [TensorSpec(name="y", dtype="float32", shape=())], lambda _: Plain())
    assert runner.run({"x": np.float32(1)})["y"] == 2


def test_programs_are_kept_as_json() -> None:
    program = exits(3)
    assert Program.model_validate(json.loads(program.model_dump_json())) == program
    assert program.order == ("s0", "g0", "s1", "g1", "s2")
