"""The ways through a program: what each node does, and thresholds that were set again."""

from __future__ import annotations

import re
from typing import Any

import pytest

from openglm.bundle.manifest import Gate, Program, Recalibration, Segment
from openglm.dynamic.gates.gate import kinds
from openglm.report import ways
from openglm.report.page import render
from openglm.report.units import THIN

SURE = Gate(name="sure", kind="confidence", settings={"threshold": 0.93}, routes=(None, "upper"))
PROGRAM = Program(
    segments=(
        Segment(name="lower", models={"onnxruntime": "a.onnx"}, work=0.25, next="sure"),
        Segment(name="upper", models={"onnxruntime": "b.onnx"}, work=0.75),
    ),
    gates=(SURE,),
)
AGAIN = Recalibration(
    created="2026-11-27T10:00:00+00:00", command="openglm calibrate", data="week.tsv", samples=1200,
    max_drop=0.005, certainty=0.9, work=(0.5, 0.62), drop=(0.021, 0.004), notes=("Inputs leave at exit 1.",),
)  # fmt: skip


def told(make: Any, **changes: Any) -> str:
    section = re.search(r'<section id="ways".*?</section>', render(make.sample(**changes)), re.S)
    assert section is not None
    return str(make.words(make.Page(section[0]).text))


def test_every_node_is_there_in_order(make: Any) -> None:
    found = told(make, program=PROGRAM)
    for text in (
        "lower",
        "25 %",
        "ends here where the answer is at least 93.0% probable",
        "the end, or upper",
    ):
        assert text in found
    assert found.index("lower") < found.index("sure") < found.index("75 %")
    assert "set again" not in found


def test_a_closed_gate_and_the_last_setting(make: Any) -> None:
    closed = SURE.model_copy(update={"routes": ("upper", "upper")})
    program = PROGRAM.model_copy(update={"gates": (closed,)})
    found = told(make, program=program, recalibrated=(AGAIN.model_copy(update={"data": "spring.tsv"}), AGAIN))
    assert "is closed: nothing ends here" in found
    assert "Thresholds were set again on 1,200 samples of week.tsv" in found
    assert "62 % of the whole model's work, at a loss of 0.0040" in found
    assert "spring" not in found


def test_what_an_input_costs_in_the_mean(make: Any) -> None:
    """A share of what the verdict says of one that goes all the way."""
    manifest = make.sample(program=PROGRAM)
    assert ways.average(manifest) == ""
    limits = [{"name": "latency", "predicted": 89.0}, {"name": "energy", "predicted": 210.0}]
    given = {
        "program": PROGRAM,
        "mean_work": 0.7,
        "verdict_after": {**manifest.verdict_after, "limits": limits},
    }
    manifest = manifest.model_copy(update=given)
    said = ways.average(manifest).replace("\u00a0", " ").replace("\u202f", " ")
    assert said.startswith("On the samples that judged an input does 70 % of the work in the mean.")
    assert "to take 62.3 ms and 147 mJ for one, and 89.0 ms and 210 mJ for one that goes all the way" in said
    later = manifest.model_copy(update={"recalibrated": (AGAIN,)})
    assert ways.average(later).startswith("On week.tsv an input does 62")
    found = told(make, program=PROGRAM, mean_work=0.7)
    assert "On the samples that judged an input does 70" in found


def test_a_whole_model_has_no_such_section(make: Any) -> None:
    assert 'id="ways"' not in render(make.sample())


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_kind_of_gate_is_told_in_words(kind: str) -> None:
    settings = {
        "threshold": 0.5,
        "patience": 2,
        "buckets": [8, 16],
        "input": "pixels",
        "limit": 64,
        "scale": 1.5,
    }
    words = ways.says(Gate(name="g", kind=kind, settings=settings, routes=("a", "b")))
    assert not words.startswith("decides by")


def test_tokens_by_number_or_as_older_bundles_have_it() -> None:
    def told(**settings: float) -> str:
        return ways.says(Gate(name="g", kind="tokens", settings=settings, routes=("a",)))

    assert told(least=16, share=0.25) == f"keeps the 16 most important tokens and 25{THIN}% of the others"
    assert told(threshold=0.5, scale=1.5) == "drops tokens below 0.75 times the mean importance"
