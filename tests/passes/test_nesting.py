"""Passes that make a program one within another: against each by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from openglm.dynamic.program import ProgramRunner, open_file
from openglm.dynamic.recalibration import recalibrate
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.extra_outputs import NAMED, plain
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.adaptive_length import AdaptiveLength
from openglm.passes.branch import Branch
from openglm.passes.cascade import Cascade
from openglm.passes.contract import Context, Draft
from openglm.passes.program import ProgramOfExits
from openglm.passes.recipe import parse
from openglm.passes.structure.nesting import nested, reaching
from openglm.runtimes.onnxruntime import Runner
from openglm.search.trial import write_draft

Build = Callable[..., ir.Model]
COUNT, CLASSES, WORDS = 1600, 4, 60
TEXT = """g (int64[n,t] input_ids, int64[n,t] attention_mask) => ({}) {{
    e = Gather(table, input_ids) m = Cast <to=1> (attention_mask) u = Unsqueeze(m, two)
    k = Mul(e, u) s = ReduceSum <keepdims=0> (k, one) b = Tanh(s)
    {}
}}"""
WITH_EXIT = "exit_1 = MatMul(b, h1) c = MatMul(b, w) d = Tanh(c) logits = MatMul(d, h2)"
ALONE = "logits = MatMul(b, h1)"


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    near = np.eye(8) + 0.3 * rng.normal(size=(8, 8))
    head = 3 * rng.normal(size=(8, CLASSES))
    found = {"table": rng.normal(size=(WORDS, 8)), "w": near, "h1": near @ head, "h2": head}
    return {
        **{name: array.astype(np.float32) for name, array in found.items()},
        "one": np.array([1]), "two": np.array([2]),
    }  # fmt: skip


@pytest.fixture
def graph(build: Build, arrays: dict[str, np.ndarray]) -> ir.Model:
    """A model of texts with an exit."""
    made = build(TEXT.format("float[n,4] logits, float[n,4] exit_1", WITH_EXIT), **arrays)
    made.metadata_props[NAMED] = json.dumps(["exit_1"])
    return made


@pytest.fixture
def small(build: Build, arrays: dict[str, np.ndarray], tmp_path: Path) -> str:
    """A model that answers as the first layer does, roughly."""
    rng = np.random.default_rng(1)
    own = {name: arrays[name] for name in ("table", "one", "two")}
    own["h1"] = arrays["h1"] + (0.7 * rng.normal(size=arrays["h1"].shape)).astype(np.float32)
    path = tmp_path / "small.onnx"
    onnx_file.write(build(TEXT.format("float[n,4] logits", ALONE), **own), path)
    return str(path)


@pytest.fixture
def texts() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 13, size=COUNT)
    return [
        {
            "input_ids": rng.integers(0, WORDS, size=(1, length)),
            "attention_mask": np.ones((1, length), np.int64),
        }
        for length in lengths
    ]


def context(texts: list[dict[str, np.ndarray]]) -> Context:
    def rows() -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
        return ((text, None) for text in texts)

    return Context(labelled=rows)


def opened(draft: Draft, graph: ir.Model, folder: Path) -> ProgramRunner:
    folder = folder / "program"
    folder.mkdir()
    runner = open_file(write_draft(draft, specs(plain(graph).graph.outputs), folder), threads=1)
    assert isinstance(runner, ProgramRunner)
    return runner


def thresholds(draft: Draft) -> dict[str, float]:
    return {
        gate.name: gate.settings["threshold"] for gate in draft.program.gates if gate.kind == "confidence"
    }


def sure(logits: np.ndarray) -> float:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return float((powers / powers.sum()).max())


def test_the_deep_part_of_a_branch_has_an_exit(
    graph: ir.Model, small: str, texts: list[dict[str, np.ndarray]], run: Any, tmp_path: Path
) -> None:
    steps = [Branch(small=small, limit=5), ProgramOfExits(max_drop=0.05)]
    draft = nested(steps, graph, context(texts))
    assert draft.program.first == "branch"
    runner, least = opened(draft, graph, tmp_path), thresholds(draft)["large_gate_0"]
    alone = steps[1].apply(graph, context([text for text in texts if text["input_ids"].shape[1] > 5]))
    assert least == thresholds(alone)["gate_0"], "set on those that come as far"
    ways = set()
    for text in texts[:200]:
        outputs, trace = runner.traced(text)
        (way,) = trace.rows
        ways.add(way.nodes)
        whole = run(graph, text)
        if text["input_ids"].shape[1] <= 5:
            wanted, nodes = run(onnx_file.read(Path(small)), text)["logits"], ("branch", "small")
        elif sure(whole["exit_1"]) >= least:
            wanted, nodes = whole["exit_1"], ("branch", "large_segment_0", "large_gate_0")
        else:
            nodes = ("branch", "large_segment_0", "large_gate_0", "large_segment_1")
            wanted = whole["logits"]
            assert way.work == pytest.approx(1)
        assert way.nodes == nodes
        np.testing.assert_allclose(outputs["logits"], wanted, rtol=1e-4, atol=1e-5)
    assert len(ways) == 3
    batch = {
        name: np.concatenate([text[name] for text in texts if text[name].shape[1] == 7]) for name in texts[0]
    }
    together, _ = runner.traced(batch)
    one = runner.run({name: array[3:4] for name, array in batch.items()})
    np.testing.assert_allclose(together["logits"][3:4], one["logits"], rtol=1e-5, atol=1e-6)


def test_a_cascades_large_model_has_an_exit_set_on_what_wakes_it(
    graph: ir.Model, small: str, texts: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    steps = [Cascade(small=small, max_drop=0.1), ProgramOfExits(max_drop=0.05)]
    draft = nested(steps, graph, context(texts))
    assert set(thresholds(draft)) == {"gate", "large_gate_0"}
    outer = steps[0].apply(plain(graph), context(texts[::2]))
    asked = [text for text, _ in reaching(outer, ((text, None) for text in texts[1::2]))]
    assert 0 < len(asked) < len(texts) / 2
    inner = steps[1].apply(graph, context(asked))
    assert thresholds(draft) == {
        "gate": thresholds(outer)["gate"],
        "large_gate_0": thresholds(inner)["gate_0"],
    }
    assert draft.notes == (*outer.notes, *inner.notes)
    runner = opened(draft, graph, tmp_path)
    small_runner = Runner(Path(small), threads=1)
    for text in texts[:100]:
        unsure = sure(small_runner.run(text)["logits"]) < thresholds(draft)["gate"]
        assert ("large_segment_0" in runner.traced(text)[1].rows[0].nodes) == unsure
    # Its thresholds can be set again like any other's.
    folder, samples = tmp_path / "program", Samples.of((text, None) for text in texts)
    again = recalibrate(
        draft.program, specs(plain(graph).graph.outputs),
        lambda segment: Runner(folder / segment.models["onnxruntime"], threads=1), samples,
        max_drop=0.1, certainty=0.9, false_rejects=0.01,
    )  # fmt: skip
    assert again.after.drop <= 0.1
    assert again.after.work < 1


def test_texts_at_their_own_length_leave_early(
    graph: ir.Model, texts: list[dict[str, np.ndarray]], run: Any, tmp_path: Path
) -> None:
    steps = [AdaptiveLength(buckets=(4, 8)), ProgramOfExits(max_drop=0.05)]
    draft = nested(steps, graph, context(texts))
    assert thresholds(draft) == {
        f"model_{name}": least for name, least in thresholds(steps[1].apply(graph, context(texts))).items()
    }, "all texts come as far"
    runner = opened(draft, graph, tmp_path)
    longest = max(text["input_ids"].shape[1] for text in texts) + 5
    padded = {
        name: np.concatenate(
            [np.pad(text[name], ((0, 0), (0, longest - text[name].shape[1]))) for text in texts[:50]]
        )
        for name in texts[0]
    }
    outputs, trace = runner.traced(padded)
    whole = run(graph, padded)
    left = np.array(["model_segment_1" not in way.nodes for way in trace.rows])
    assert 0 < left.sum() < 50
    wanted = np.where(left[:, None], whole["exit_1"], whole["logits"])
    np.testing.assert_allclose(outputs["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_three_within_each_other(
    graph: ir.Model, small: str, texts: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    steps = [AdaptiveLength(buckets=(8,)), Branch(small=small, limit=3), ProgramOfExits(max_drop=0.05)]
    runner = opened(nested(steps, graph, context(texts)), graph, tmp_path)
    long = next(text for text in texts if text["input_ids"].shape[1] > 3)
    _, trace = runner.traced(long)
    assert trace.rows[0].nodes[:3] == ("length", "model_branch", "model_large_segment_0")


def test_where_no_sample_comes_as_far(
    graph: ir.Model, small: str, texts: list[dict[str, np.ndarray]]
) -> None:
    draft = nested([Branch(small=small, limit=100), ProgramOfExits()], graph, context(texts))
    assert [segment.name for segment in draft.program.segments] == ["small", "large"]
    assert draft.notes[-1] == "No sample comes as far as the model itself, so program is left out."
    assert len(draft.graphs["large"].graph.outputs) == 1, "nothing leaves there, so there are no exits"


def test_what_cuts_the_model_comes_last() -> None:
    branch, program = {"pass": "branch", "small": "s.onnx"}, {"pass": "program"}
    assert [step.scheme for step in parse([branch, program])] == ["branch", "program"]
    with pytest.raises(InputError, match="has branch after program, which cuts the model") as caught:
        parse([program, branch])
    assert caught.value.advice == "Put program last."
    with pytest.raises(InputError, match="has fuse after branch"):
        parse([branch, {"pass": "fuse"}, program])
