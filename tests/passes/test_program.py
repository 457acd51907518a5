"""Programs of graphs with exits: against gating the whole graph's answers by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from openglm.dynamic import calibration
from openglm.dynamic.gates.gate import State, parse
from openglm.dynamic.program import ProgramRunner, open_program
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.contract import Context, Draft
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.program import ProgramOfExits
from openglm.passes.recipe import parse as recipe
from openglm.passes.recipe import split

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
WIDTH, COUNT = 16, 600
GRAPH = """g (float[n,{1}] x) => (float[n,{0}] logits, float[n,{0}] exit_1, float[n,{0}] exit_2) {{
    a = MatMul(x, w1) b = Relu(a) exit_1 = MatMul(b, h1)
    c = MatMul(b, w2) d = Relu(c) exit_2 = MatMul(d, h2)
    e = MatMul(d, w3) f = Relu(e) logits = MatMul(f, h3)
}}"""


@pytest.fixture
def make(build: Build) -> Callable[..., ir.Model]:
    """A graph whose exits know the better what the end says the later they are."""

    def made(classes: int, width: int = WIDTH, change: float = 0.15) -> ir.Model:
        rng = np.random.default_rng(3)
        near = [np.eye(width) + change * rng.normal(size=(width, width)) / width**0.5 for _ in range(3)]
        head = 3 * rng.normal(size=(width, classes))
        arrays = {f"w{index + 1}": weight for index, weight in enumerate(near)}
        arrays |= {"h1": near[1] @ near[2] @ head, "h2": near[2] @ head, "h3": head}
        return build(
            GRAPH.format(classes, width), **{key: array.astype(np.float32) for key, array in arrays.items()}
        )

    return made


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(COUNT, WIDTH)).astype(np.float32)


def context(inputs: np.ndarray, labels: np.ndarray | None = None) -> Context:
    def rows() -> Iterator[tuple[dict[str, np.ndarray], float | None]]:
        for index, row in enumerate(inputs):
            yield {"x": row[None]}, None if labels is None else float(labels[index])

    return Context(labelled=rows)


def opened(draft: Draft, folder: Path) -> ProgramRunner:
    last = draft.program.segments[-1]
    for segment in draft.program.segments:
        onnx_file.write(draft.graphs[segment.name], folder / segment.models["onnxruntime"])
    return open_program(draft.program, specs(draft.graphs[last.name].graph.outputs), folder, threads=1)


def by_hand(draft: Draft, whole: dict[str, np.ndarray], exits: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The answers where rows leave the whole graph's outputs by a program's gates, and where they leave."""
    answer = whole["logits"].copy()
    place = np.full(len(answer), len(exits))
    state: State = {}
    waiting = np.ones(len(answer), bool)
    for index, (gate, name) in enumerate(zip(draft.program.gates, exits, strict=True)):
        state = {**state, "logits": whole[name]}
        routes = parse(gate).decide(state)
        leaves = waiting & (routes == 0)
        answer[leaves], place[leaves] = whole[name][leaves], index
        waiting &= ~leaves
    return answer, place


@pytest.mark.parametrize("gate", ["confidence", "entropy", "learned", "patience"])
def test_rows_leave_as_they_would_by_hand(
    make: Callable[..., ir.Model], inputs: np.ndarray, run: Run, tmp_path: Path, gate: Any
) -> None:
    graph = make(4)
    draft = ProgramOfExits(gate=gate, max_drop=0.1).apply(graph, context(inputs))
    kinds = {item.kind for item in draft.program.gates}
    assert kinds == {gate}
    names = [f"exit_{number}" for number in range(1, 3)]
    exits = names if len(draft.program.gates) == 2 else [_told(draft)]
    whole = run(graph, {"x": inputs})
    wanted, place = by_hand(draft, whole, exits)
    assert (place < len(exits)).any()
    outputs, trace = opened(draft, tmp_path).traced({"x": inputs})
    np.testing.assert_allclose(outputs["logits"], wanted, rtol=1e-4, atol=1e-5)
    assert [way.nodes.count("segment_1") for way in trace.rows] == [int(p > 0) for p in place]
    changed = outputs["logits"].argmax(1) != whole["logits"].argmax(1)
    assert changed.mean() <= 0.1
    single = np.concatenate([opened(draft, tmp_path).run({"x": row[None]})["logits"] for row in inputs[:20]])
    np.testing.assert_allclose(single, wanted[:20], rtol=1e-4, atol=1e-5)


def _told(draft: Draft) -> str:
    words = draft.notes[-1].partition("exit ")[2].partition(":")[0]
    return f"exit_{words}"


def test_work_is_shared_out(make: Callable[..., ir.Model], inputs: np.ndarray) -> None:
    draft = ProgramOfExits(max_drop=1.0).apply(make(4), context(inputs))
    assert sum(segment.work for segment in draft.program.segments) == pytest.approx(1.0, abs=1e-4)
    assert all(0 < segment.work < 1 for segment in draft.program.segments)


def test_labels_decide_where_there_are_any(make: Callable[..., ir.Model], inputs: np.ndarray) -> None:
    """With labels that the first exit alone gets right, leaving early costs nothing at all."""
    graph = make(4)
    labels = np.zeros(COUNT)
    draft = ProgramOfExits(max_drop=0.05).apply(graph, context(inputs, labels))
    assert "of accuracy" in draft.notes[0]
    assert "of agreement" in ProgramOfExits(max_drop=0.05).apply(graph, context(inputs)).notes[0]


def test_nothing_proven_is_the_whole_model(
    make: Callable[..., ir.Model], inputs: np.ndarray, run: Run, tmp_path: Path
) -> None:
    graph = make(4)
    draft = ProgramOfExits(max_drop=0.001).apply(graph, context(inputs[:10]))
    assert len(draft.program.segments) == 1
    assert draft.notes[0].startswith("No input leaves early")
    outputs = opened(draft, tmp_path).run({"x": inputs})
    np.testing.assert_allclose(outputs["logits"], run(graph, {"x": inputs})["logits"], rtol=1e-5)


def test_one_number(make: Callable[..., ir.Model], inputs: np.ndarray, run: Run, tmp_path: Path) -> None:
    graph = make(1)
    draft = ProgramOfExits(max_drop=0.1).apply(graph, context(inputs))
    assert {gate.kind for gate in draft.program.gates} == {"patience"}
    wanted, place = by_hand(draft, run(graph, {"x": inputs}), ["exit_1", "exit_2"])
    assert (place < 2).any()
    outputs = opened(draft, tmp_path).run({"x": inputs})
    np.testing.assert_allclose(outputs["logits"], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="goes by classes"):
        ProgramOfExits(gate="confidence").apply(graph, context(inputs))


def test_a_quantized_graph(make: Callable[..., ir.Model], run: Run, tmp_path: Path) -> None:
    """A row at a time: ranges that are found as a graph runs depend on what shares a batch."""
    inputs = np.random.default_rng(4).normal(size=(COUNT, 64)).astype(np.float32)
    applied = DynamicInt8().apply(make(4, 64, 0.6), Context())
    assert applied.changed
    draft = ProgramOfExits(max_drop=0.1).apply(applied.graph, context(inputs))
    assert len(draft.program.segments) == 3
    for graph in draft.graphs.values():
        assert "MatMulInteger" in {node.op_type for node in graph.graph}
    single = [run(applied.graph, {"x": row[None]}) for row in inputs[:40]]
    whole = {name: np.concatenate([row[name] for row in single]) for name in single[0]}
    wanted, place = by_hand(draft, whole, ["exit_1", "exit_2"])
    assert set(place) == {0, 1, 2}
    runner = opened(draft, tmp_path)
    found = np.concatenate([runner.run({"x": row[None]})["logits"] for row in inputs[:40]])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_segments_are_parts_of_the_graph(
    make: Callable[..., ir.Model], inputs: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CUT", 0.0)  # so that every exit pays
    graph = make(4)
    draft = ProgramOfExits(max_drop=0.05).apply(graph, context(inputs))

    def weights(model: ir.Model) -> set[str]:
        return set(model.graph.initializers)

    first, second, third = (weights(draft.graphs[segment.name]) for segment in draft.program.segments)
    assert (first, second, third) == ({"w1", "h1"}, {"w2", "h2"}, {"w3", "h3"})
    assert weights(graph) == first | second | third, "the graph that was given is as it was"


def test_errors_say_what_to_do(build: Build, make: Callable[..., ir.Model], inputs: np.ndarray) -> None:
    plain = build("g (float[n,16] x) => (float[n,16] y) { y = Relu(x) }")
    with pytest.raises(InputError, match="no exits, and no layers to drop tokens behind"):
        ProgramOfExits().apply(plain, context(inputs))
    with pytest.raises(InputError, match="need data"):
        ProgramOfExits().apply(make(4), Context())
    with pytest.raises(InputError, match="holds no sample"):
        ProgramOfExits().apply(make(4), context(inputs[:0]))
    several = build("g (float[n,16] x) => (float[n,16] y, float[n,16] z, float[n,16] exit_1) {"
                    " y = Relu(x) z = Exp(x) exit_1 = Exp(y) }")  # fmt: skip
    with pytest.raises(InputError, match="gives 2 outputs"):
        ProgramOfExits().apply(several, context(inputs))


def test_it_comes_last_in_a_recipe() -> None:
    steps = [{"pass": "fuse"}, {"pass": "program"}]
    modules, graphs, made = split(recipe(steps))
    assert (len(modules), len(graphs), made) == (0, 1, (ProgramOfExits(),))
    with pytest.raises(InputError, match="fuse after program"):
        recipe(list(reversed(steps)))
