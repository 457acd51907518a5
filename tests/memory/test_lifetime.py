"""Lifetimes against a brute-force reading of their definition, on random graphs."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.memory.lifetime import Lifetime, lifetimes, peak, peak_activation_bytes
from openglm.model.analysis.shapes import resolve
from planned_graphs import graphs, parse


def brute_force(model: onnx.ModelProto, nbytes: dict[str, int]) -> int:
    """At each step, every storage that was made and that something at or after the step still needs."""
    nodes = list(model.graph.node)
    alias = {value.name: value.name for value in model.graph.input}
    for node in nodes:
        alias[node.output[0]] = alias[node.input[0]] if node.op_type == "Identity" else node.output[0]
    born = {value.name: 0 for value in model.graph.input} | {
        node.output[0]: step for step, node in enumerate(nodes)
    }
    outputs = {alias[value.name] for value in model.graph.output}
    most = 0
    for step in range(len(nodes)):
        touched = {alias[name] for node in nodes[step:] for name in (*node.input, *node.output)}
        # Graph inputs arrive together, before the first step.
        waiting = {value.name for value in model.graph.input} if step == 0 else set()
        alive = {name for name in touched | outputs | waiting if born[name] <= step}
        most = max(most, sum(nbytes[name] for name in alive))
    return most


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_the_peak_is_that_of_the_definition(model: onnx.ModelProto) -> None:
    shapes = resolve(ir.from_proto(model))
    nbytes = {name: info.nbytes for name, info in shapes.by_name.items()}
    assert peak(lifetimes(shapes)) == brute_force(model, nbytes)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 99))))
def test_the_peak_of_intervals(spans: list[tuple[int, int, int]]) -> None:
    tensors = [Lifetime(str(i), min(a, b), max(a, b), n) for i, (a, b, n) in enumerate(spans)]
    assert peak(tensors) == max(
        sum(t.nbytes for t in tensors if t.first <= step <= t.last) for step in range(10)
    )


def test_a_branch_needs_its_memory_while_it_runs() -> None:
    text = """g (bool c, float[10] x) => (float[10] y) {
      y = If (c) <
        then_branch = t () => (float[10] u) { u = Relu(x) },
        else_branch = e () => (float[10] v) { w = Concat <axis = 0> (x, x, x)  h = Relu(w)
                                               s = Constant <value_ints = [10, 10, 10]> ()
                                               v, k, l = Split <axis = 0> (h, s) }>
    }"""
    found = lifetimes(resolve(parse(text)))
    scratch = next(tensor for tensor in found if tensor.name not in ("c", "x", "y"))
    assert scratch.nbytes == 240  # while Relu runs, w and h of 30 floats each; so do h and its parts
    assert peak(found) == 1 + 40 + 40 + 240


def test_constants_and_unknown_shapes_count_nothing() -> None:
    model = parse(
        "g (float[4] x) => (float[n] y) { c = Constant <value_floats = [1.0, 2.0]> ()  y = Foo(x, c) }"
    )
    assert peak_activation_bytes(resolve(model)) == 16


def test_what_is_computed_from_constants_is_constant() -> None:
    text = "g (float[4] x) => (float[4] y) { w = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () "
    shapes = resolve(parse(f"{text} t = Neg(w) s = Relu(t) y = Add(x, s) }}"))
    assert peak(lifetimes(shapes)) == 32
    assert {name for tensor in lifetimes(shapes) for name in tensor.values} == {"x", "y"}


def test_an_output_is_not_written_over_at_the_last_step() -> None:
    shapes = resolve(parse("g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Neg(y) }"))
    assert peak(lifetimes(shapes, in_place=True)) == 32


def test_an_input_that_nothing_reads_is_gone_after_the_first_step() -> None:
    shapes = resolve(parse("g (float[4] x, float[9] unread) => (float[4] y) { h = Relu(x) y = Neg(h) }"))
    assert [tensor.last for tensor in lifetimes(shapes) if tensor.name == "unread"] == [0]
