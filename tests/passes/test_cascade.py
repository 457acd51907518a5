"""A small model before a large one: against running both by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from openglm.dynamic.program import ProgramRunner, open_file
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.cascade import Cascade
from openglm.passes.contract import Context, Draft
from openglm.search.trial import write_draft

Build = Callable[..., ir.Model]
CLASSES, WIDTH, COUNT = 3, 8, 800
LINEAR = "g (float[n,8] x) => (float[n,3] {}) {{ {} = MatMul(x, w) }}"


@pytest.fixture
def large(build: Build, rng: np.random.Generator) -> ir.Model:
    return build(
        "g (float[n,8] x) => (float[n,3] logits) { h = MatMul(x, v) r = Identity(h) logits = MatMul(r, w) }",
        v=np.eye(WIDTH, dtype=np.float32),
        w=(3 * rng.normal(size=(WIDTH, CLASSES))).astype(np.float32),
    )


@pytest.fixture
def small(build: Build, rng: np.random.Generator, large: ir.Model, tmp_path: Path) -> Path:
    """Nearly as the large one; its answer has another name."""
    weight = next(v.const_value.numpy() for v in large.graph.initializers.values() if v.name == "w")  # type: ignore[union-attr]
    noise = 0.5 * rng.normal(size=weight.shape)
    path = tmp_path / "small.onnx"
    onnx_file.write(build(LINEAR.format("scores", "scores"), w=(weight + noise).astype(np.float32)), path)
    return path


@pytest.fixture
def inputs(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(COUNT, WIDTH)).astype(np.float32)


def labelled(inputs: np.ndarray, labels: Any = None) -> Context:
    rows = [({"x": row[None]}, None if labels is None else float(labels[i])) for i, row in enumerate(inputs)]
    return Context(labelled=lambda: iter(rows))


def opened(draft: Draft, large: ir.Model, folder: Path) -> ProgramRunner:
    folder = folder / "program"
    folder.mkdir()
    runner = open_file(write_draft(draft, specs(large.graph.outputs), folder), threads=1)
    assert isinstance(runner, ProgramRunner)
    return runner


def test_where_the_small_one_is_sure(
    large: ir.Model, small: Path, inputs: np.ndarray, run: Any, tmp_path: Path
) -> None:
    draft = Cascade(small=str(small), max_drop=0.05).apply(large, labelled(inputs))
    (gate,) = draft.program.gates
    assert gate.kind == "confidence"
    outputs, trace = opened(draft, large, tmp_path).traced({"x": inputs})
    ours = run(onnx_file.read(small), {"x": inputs})["scores"]
    theirs = run(large, {"x": inputs})["logits"]
    shares = np.exp(ours - ours.max(1, keepdims=True))
    sure = (shares / shares.sum(1, keepdims=True)).max(1) >= gate.settings["threshold"]
    assert 0.1 < sure.mean() < 1, "some leave, some do not"
    np.testing.assert_allclose(outputs["logits"], np.where(sure[:, None], ours, theirs), rtol=1e-5, atol=1e-6)
    assert (outputs["logits"].argmax(1) != theirs.argmax(1)).mean() <= 0.05
    for way, leaves in zip(trace.rows, sure, strict=True):
        assert way.nodes == (("small", "gate") if leaves else ("small", "gate", "large"))
    assert draft.notes[0].startswith("The small model answers where it is sure")


def test_nothing_proven_is_the_large_model_alone(large: ir.Model, small: Path, inputs: np.ndarray) -> None:
    draft = Cascade(small=str(small), max_drop=0.001).apply(large, labelled(inputs[:20]))
    assert [segment.name for segment in draft.program.segments] == ["large"]
    assert not draft.program.gates
    assert draft.notes[0].startswith("The small model answers nothing")


@pytest.mark.parametrize("missed", [0.0, 0.1])
def test_the_wake_word(
    large: ir.Model, small: Path, inputs: np.ndarray, run: Any, tmp_path: Path, missed: float
) -> None:
    labels = run(large, {"x": inputs})["logits"].argmax(1)
    config = Cascade(small=str(small), wake=(2,), false_rejects=missed)
    assert config.code == "cascade_wake"
    draft = config.apply(large, labelled(inputs, labels))
    _, trace = opened(draft, large, tmp_path).traced({"x": inputs})
    wakes = np.array([way.nodes[-1] == "large" for way in trace.rows])
    assert (~wakes[labels == 2]).mean() <= missed
    assert wakes[labels != 2].mean() < 0.9, "it sleeps through some of what it is not for"


def test_errors_say_what_does_not_fit(
    build: Build, large: ir.Model, small: Path, inputs: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="needs data"):
        Cascade(small=str(small)).apply(large, Context())
    with pytest.raises(InputError, match="learnt from labels"):
        Cascade(small=str(small), wake=(1,)).apply(large, labelled(inputs))
    with pytest.raises(InputError, match="3 classes, and none numbered 7"):
        Cascade(small=str(small), wake=(7,)).apply(large, labelled(inputs, np.zeros(COUNT)))
    with pytest.raises(InputError, match="no sample that shall wake"):
        Cascade(small=str(small), wake=(1,)).apply(large, labelled(inputs, np.zeros(COUNT)))
    other = tmp_path / "other.onnx"
    onnx_file.write(
        build("g (float[n,8] z) => (float[n,3] y) { y = MatMul(z, w) }", w=np.ones((8, 3), "f")), other
    )
    with pytest.raises(InputError, match="takes z, and this one x"):
        Cascade(small=str(other)).apply(large, labelled(inputs))
    onnx_file.write(
        build("g (float[n,8] x) => (float[n,2] y) { y = MatMul(x, w) }", w=np.ones((8, 2), "f")), other
    )
    with pytest.raises(InputError, match="answers with the same classes"):
        Cascade(small=str(other)).apply(large, labelled(inputs))
