"""Graphs run inside their plan's arena: the same outputs as ONNX Runtime's, and wrong plans are caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError, VerificationError
from openglm.memory.arena import Arena, guarded
from openglm.memory.plan import Plan, plan
from openglm.model.analysis.shapes import Shapes, resolve
from openglm.model.auto import AutoModel
from planned_graphs import graphs, mixed, parse


def truth(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def feeds_of(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    made = {}
    for value in shapes.graph.inputs:
        info = shapes.of[value]
        kind = info.dtype.numpy()
        floats = kind.kind == "f"
        made[str(value.name)] = (
            random.standard_normal(info.shape) if floats else random.integers(0, 2, info.shape)
        ).astype(kind)
    return made


def check(model: ir.Model, planned: Plan, shapes: Shapes) -> None:
    arena = Arena(model, shapes, planned)
    for seed in range(3):
        feeds = feeds_of(shapes, seed)
        found = arena.run(feeds)
        for name, array in arena.apart(feeds).items():
            np.testing.assert_array_equal(found[name], array)
        for name, array in truth(model, feeds).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["given", "best"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("double_buffer", [False, True])
def test_the_outputs_are_those_of_the_engine(order: str, in_place: bool, double_buffer: bool) -> None:
    model = mixed()
    shapes = resolve(model)
    planned = plan(shapes, order=order, in_place=in_place, double_buffer=double_buffer, align=16)  # type: ignore[arg-type]
    check(model, planned, shapes)
    check(model, guarded(planned), shapes)


@given(model=graphs(), double_buffer=st.booleans())
@settings(max_examples=40, deadline=None)
def test_random_graphs(model: onnx.ModelProto, double_buffer: bool) -> None:
    graph = ir.from_proto(model)
    shapes = resolve(graph)
    for order in ("given", "best"):
        try:
            planned = plan(shapes, order=order, double_buffer=double_buffer, align=4)  # type: ignore[arg-type]
        except InputError:  # an output that is an input itself
            assert double_buffer
            continue
        arena = Arena(graph, shapes, planned)
        for seed in range(3):
            feeds = feeds_of(shapes, seed)
            found, wanted = arena.run(feeds), arena.apart(feeds)
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)


def test_a_real_network(conv_file: Path) -> None:
    model = AutoModel.from_pretrained(conv_file).graph
    shapes = resolve(model, {"batch": 2})
    check(model, plan(shapes), shapes)


def test_a_real_encoder(bert_folder: Path) -> None:
    model = AutoModel.from_pretrained(bert_folder).graph
    shapes = resolve(model, {"sequence": 12})
    planned = plan(shapes)
    assert planned.optimal
    assert planned.arena_bytes < sum(place.nbytes for place in planned.placements) / 4
    check(model, planned, shapes)


def test_operators_of_the_engine_s_own_run_too() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
            "g (float[2, 8] x) => (float[2, 8] y) { h = com.microsoft.Gelu(x)  y = Add(h, x) }"
        )
    )
    shapes = resolve(model)
    check(model, plan(shapes), shapes)


def test_control_flow_runs_as_one_step() -> None:
    model = parse("""g (bool c, float[10] x) => (float[10] y) {
      h = Relu(x)
      y = If (c) < then_branch = t () => (float[10] u) { u = Neg(h) },
                   else_branch = e () => (float[10] v) { w = Add(h, x)  v = Relu(w) }> }""")
    shapes = resolve(model)
    check(model, plan(shapes), shapes)


def test_an_overlapping_plan_is_caught() -> None:
    model = mixed()
    shapes = resolve(model)
    planned = plan(shapes, in_place=False)
    alive = next(place for place in planned.placements if place.name == "r")
    clash = next(
        place for place in planned.placements if place.first > alive.first and place.last < alive.last
    )
    wrong = clash.model_copy(update={"offset": alive.offset})
    broken = planned.model_copy(
        update={"placements": tuple(wrong if place is clash else place for place in planned.placements)}
    )
    with pytest.raises(VerificationError, match="'r' was written over"):
        Arena(model, shapes, broken).run(feeds_of(shapes, 0))


def test_a_lifetime_that_is_too_short_is_caught() -> None:
    model = mixed()
    shapes = resolve(model)
    tensors = plan(shapes, in_place=False)
    short = tuple(
        place.model_copy(update={"last": place.first}) if place.name == "r" else place
        for place in tensors.placements
    )
    replanned = guarded(tensors.model_copy(update={"placements": short}), guard=0)
    with pytest.raises(VerificationError, match="written over"):
        Arena(model, shapes, replanned).run(feeds_of(shapes, 0))


def test_guard_bytes_are_checked() -> None:
    model = mixed()
    shapes = resolve(model)
    planned = guarded(plan(shapes, in_place=False, align=16), guard=16)
    arena = Arena(model, shapes, planned)
    place = next(place for place in planned.placements if place.name == "x")

    def spoils(compute):  # type: ignore[no-untyped-def]
        def run(feeds):  # type: ignore[no-untyped-def]
            made = compute(feeds)
            arena.memory[place.offset + place.nbytes] = 0
            return made

        return run

    arena.steps[1] = arena.steps[1]._replace(compute=spoils(arena.steps[1].compute))
    with pytest.raises(VerificationError, match="guard bytes behind 'x'"):
        arena.run(feeds_of(shapes, 0))


def test_the_last_frame_outlives_the_next_only_where_it_is_doubled() -> None:
    model = mixed()
    shapes = resolve(model)
    planned = plan(shapes, double_buffer=True)
    arena = Arena(model, shapes, planned)
    first = arena.run(feeds_of(shapes, 0))
    kept = arena._view("y")
    arena.run(feeds_of(shapes, 1))
    np.testing.assert_array_equal(kept, first["y"])
    pairs = [place for place in planned.placements if "y" in place.values]
    broken = planned.model_copy(
        update={
            "placements": tuple(
                place.model_copy(update={"offset": pairs[0].offset}) if place is pairs[1] else place
                for place in planned.placements
            )
        }
    )
    arena = Arena(model, shapes, broken)
    arena.run(feeds_of(shapes, 0))
    with pytest.raises(VerificationError, match="last frame's 'y'"):
        arena.run(feeds_of(shapes, 1))


def test_what_cannot_be_run_is_named() -> None:
    model = parse("g (float[4] x) => (float[4] y) { h = Relu(x)  y = far.away.Thing(h) }")
    shapes = resolve(model)
    with pytest.raises(InputError, match=r"far\.away::Thing"):
        Arena(model, shapes, plan(shapes))
    simple = resolve(mixed())
    with pytest.raises(InputError, match="no value for the input 'x'"):
        Arena(mixed(), simple, plan(simple)).run({})
