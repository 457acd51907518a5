"""Layers are found where they are, and what is put in their place keeps the graph's interface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.errors import InputError
from openglm.passes.rewriting import (
    Rewriter,
    clean,
    constant,
    constant_of,
    editable,
    heads,
    linears,
    weight_of,
)

Build = Callable[..., ir.Model]
W = np.arange(12, dtype=np.float32).reshape(3, 4)


def names(model: ir.Model) -> list[str]:
    return [layer.name for layer in linears(model)]


def test_linears_are_products_with_a_constant_matrix(build: Build) -> None:
    model = build(
        """g (float[n,3] x) => (float[n,4] a, float[n,4] b, float[n,3] c) {
            a = MatMul(x, w)
            b = Gemm <transB=1> (x, t, bias)
            c = Gemm (x, square)
        }""",
        w=W, t=W.T.copy(), bias=np.ones(4, np.float32), square=np.eye(3, dtype=np.float32),
    )  # fmt: skip
    first, second, third = linears(model)
    np.testing.assert_array_equal(first.weight, W)
    np.testing.assert_array_equal(second.weight, W)
    assert first.bias is None
    assert third.bias is None
    assert second.bias is not None
    assert second.bias.name == "bias"
    assert second.input is model.graph.inputs[0]
    assert second.key == (model.graph.initializers["t"], True)


@pytest.mark.parametrize(
    "node",
    [
        "y = MatMul(x, x)",
        "y = MatMul(w, x)",
        "y = MatMul(w, w)",
        "y = Gemm <alpha=0.5> (x, w)",
        "y = Gemm <beta=2.0> (x, w, w)",
        "y = Gemm <transA=1> (x, w)",
        "y = own.MatMul(x, w)",
        "y = MatMul(x, batched)",
        "y = MatMul(x, vector)",
        "y = MatMul(x, double)",
        "y = MatMul(x, half)",
    ],
)
def test_other_products_are_not(build: Build, node: str) -> None:
    square = np.eye(3, dtype=np.float32)
    model = build(
        f"g (float[3,3] x) => (float[3,3] y) {{ {node} }}",
        w=square, batched=square[None], vector=square[0], double=square.astype(np.float64),
        half=square.astype(np.float16),
    )  # fmt: skip
    assert not names(model)


def test_an_initializer_that_may_be_fed_is_no_constant(build: Build) -> None:
    model = build("g (float[n,3] x, float[3,4] w) => (float[n,4] y) { y = MatMul(x, w) }", w=W)
    assert model.graph.inputs[1].is_initializer()
    assert constant_of(model.graph.inputs[1]) is None
    assert not names(model)


def test_constant_of_what_is_computed_or_missing_is_none(build: Build) -> None:
    model = build("g (float[n,3] x) => (float[n,4] y) { h = Abs(w) y = MatMul(x, h) }", w=W)
    assert constant_of(None) is None
    assert constant_of(model.graph.inputs[0]) is None
    assert constant_of(model.graph[0].outputs[0]) is None
    np.testing.assert_array_equal(constant_of(model.graph[0].inputs[0]), W)


def test_a_transposed_constant_is_a_weight(build: Build) -> None:
    model = build(
        "g (float[n,4] x) => (float[n,3] y) { t = Transpose <perm=[1,0]> (w) y = MatMul(x, t) }", w=W
    )
    np.testing.assert_array_equal(weight_of(model.graph[1]), W.T)
    assert names(model) == ["t"]


CONDITIONAL = """g (bool c, float[n,3] x) => (float[n,4] y) {
    y = If (c) <
        then_branch = yes () => (float[n,4] p) { p = MatMul(x, w) },
        else_branch = no () => (float[n,4] q)
            { k = Constant <value = float[3,4] {0,1,2,3,4,5,6,7,8,9,10,11}> () q = MatMul(x, k) }
    >
}"""


def test_layers_in_subgraphs_are_found_and_their_constants_lifted(build: Build) -> None:
    model = editable(build(CONDITIONAL, w=W))
    assert [layer.weight.sum() for layer in linears(model)] == [66, 66]
    assert all(
        value.graph is model.graph for layer in linears(model) for value in layer.node.inputs[1:] if value
    )


def test_constants_of_branches_may_have_the_same_name(build: Build, run: Callable[..., object]) -> None:
    model = build(CONDITIONAL, w=W)
    for key, scale in (("then_branch", 1), ("else_branch", 2)):
        branch = model.graph[0].attributes[key].as_graph()
        weight = ir.Value(name="same", const_value=ir.tensor(W * scale, name="same"))
        branch.register_initializer(weight)
        branch[-1].replace_input_with(1, weight)
    x = np.ones((1, 3), np.float32)
    result = editable(model)
    for c in (True, False):
        feeds = {"c": np.array(c), "x": x}
        assert repr(run(result, feeds)) == repr(run(model, feeds))


def test_functions_are_inlined(build: Build) -> None:
    model = build(
        "g (float[n,3] x) => (float[n,4] y) { y = own.Linear(x, w) }",
        functions='<domain: "own", opset_import: ["" : 20]> Linear (a, b) => (c) { c = MatMul(a, b) }',
        w=W,
    )
    assert len(names(model)) == 0
    assert names(editable(model)) == ["w"]
    assert len(model.functions) == 1


def test_functions_of_another_opset_are_an_input_error(build: Build) -> None:
    model = build(
        "g (float[n,3] x) => (float[n,4] y) { y = own.Linear(x, w) }",
        functions='<domain: "own", opset_import: ["" : 15]> Linear (a, b) => (c) { c = MatMul(a, b) }',
        w=W,
    )
    with pytest.raises(InputError, match="functions"):
        editable(model)


@pytest.mark.parametrize("opset", [7, 12])
def test_old_opsets_are_refused(build: Build, opset: int) -> None:
    with pytest.raises(InputError, match=f"opset {opset}.*newer opset"):
        editable(build("g (float[n] x) => (float[n] y) { y = Relu(x) }", opset=opset))


def test_opset_13_is_taken(build: Build) -> None:
    editable(build("g (float[n] x) => (float[n] y) { y = Relu(x) }", opset=13))


def head_names(model: ir.Model) -> set[str]:
    return {str(node.outputs[0].name) for node in heads(model)}


def test_a_head_is_the_last_layer_before_an_output(build: Build) -> None:
    model = build(
        """g (float[n,3] x) => (float[n,4] probabilities, float[n,3] other) {
            h = MatMul(x, square) r = Relu(h)
            l = MatMul(r, w) b = Add(l, bias) probabilities = Softmax(b)
            o = Gemm(r, square) other = Identity(o)
        }""",
        w=W, square=np.eye(3, dtype=np.float32), bias=np.ones(4, np.float32),
    )  # fmt: skip
    assert head_names(model) == {"l", "o"}


def test_a_split_head_is_one(build: Build) -> None:
    model = build(
        "g (float[n,3] x) => (float[n,2] a, float[n,2] b)"
        " { h = MatMul(x, w) s, t = Split <axis=-1, num_outputs=2> (h) a = Identity(s) b = Identity(t) }",
        w=W,
    )
    assert head_names(model) == {"h"}


def test_a_normalisation_spelt_out_hides_what_is_before_it(build: Build) -> None:
    square = np.eye(3, dtype=np.float32)
    model = build(
        """g (float[n,3] x) => (float[n,3] y) {
            h = MatMul(x, square) residual = Add(x, h)
            mean = ReduceMean <keepdims=1> (residual) centred = Sub(residual, mean)
            squares = Mul(centred, centred) variance = ReduceMean <keepdims=1> (squares)
            deviation = Sqrt(variance) normal = Div(centred, deviation)
            scaled = Mul(normal, gamma) y = Add(scaled, beta)
        }""",
        square=square, gamma=square[0], beta=square[1],
    )  # fmt: skip
    assert not head_names(model)


def test_a_layer_before_a_last_residual_is_a_head_and_no_other(build: Build) -> None:
    model = build(
        """g (float[n,3] x) => (float[n,3] y) {
            a = MatMul(x, square) b = Add(x, a) c = MatMul(b, square) y = Add(c, b)
        }""",
        square=np.eye(3, dtype=np.float32),
    )
    assert head_names(model) == {"c"}


def test_a_graph_without_weights_has_no_head(build: Build) -> None:
    assert not heads(build("g (float[n] x) => (float[n] y) { y = Relu(x) }"))


def test_replacing_an_output_keeps_its_name_and_type(build: Build, run: Callable[..., object]) -> None:
    model = build("g (float[n,3] x) => (float[n,4] y) { h = MatMul(x, w) y = Identity(h) }", w=W)
    node = model.graph[1]
    rewriter = Rewriter(model, node)
    rewriter.replace(node.outputs[0], rewriter.op("Relu", [node.inputs[0]]))
    clean(model)
    output = model.graph.outputs[0]
    assert (output.name, output.dtype, str(output.shape)) == ("y", ir.DataType.FLOAT, "[n,4]")
    assert [item.op_type for item in model.graph] == ["MatMul", "Relu"]
    run(model, {"x": np.ones((2, 3), np.float32)})


def test_constants_get_names_of_their_own(build: Build) -> None:
    model = build("g (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }", w=W)
    assert [constant(model, "w", W).name for _ in range(2)] == ["w_1", "w_2"]


def test_clean_drops_unused_nodes_and_constants(build: Build) -> None:
    model = build(
        "g (float[n,3] x) => (float[n,4] y) { u = MatMul(x, unused) y = MatMul(x, w) }",
        w=W,
        unused=W,
        never=W,
    )
    clean(model)
    assert list(model.graph.initializers) == ["w"]
    assert len(model.graph) == 1
