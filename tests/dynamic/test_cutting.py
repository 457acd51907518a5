"""Pieces of a graph, run one after another, against the whole in the same engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from openglm.dynamic.cutting import Piece, cut
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.contract import Context
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.runtimes.buckets import Batch, Buckets
from openglm.runtimes.onnxruntime import Runner

WIDTH, LAYERS = 64, 3


def encoder(layers: int = LAYERS) -> ir.Model:
    """Layers that reshape by the batch's own size, with an exit after each and a mask that all read."""
    rng = np.random.default_rng(0)
    weights: list[TensorProto] = []
    nodes = [
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["gain"]),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "last"))
    hidden = "x"
    for layer in range(layers):
        weights += [
            numpy_helper.from_array(
                rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32), f"w{layer}"
            ),
            numpy_helper.from_array(rng.normal(size=(WIDTH, 5)).astype(np.float32), f"head{layer}"),
        ]
        nodes += [
            helper.make_node("MatMul", [hidden, f"w{layer}"], [f"product{layer}"]),
            helper.make_node("Reshape", [f"product{layer}", "shape"], [f"shaped{layer}"]),
            helper.make_node("Mul", [f"shaped{layer}", "gain"], [f"masked{layer}"]),
            helper.make_node("Tanh", [f"masked{layer}"], [f"tanh{layer}"]),
            helper.make_node("Add", [f"tanh{layer}", hidden], [f"hidden{layer}"]),
            helper.make_node("ReduceMean", [f"hidden{layer}", "one"], [f"mean{layer}"], keepdims=0),
            helper.make_node("MatMul", [f"mean{layer}", f"head{layer}"], [f"exit{layer}"]),
        ]
        hidden = f"hidden{layer}"
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [*shape, WIDTH]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, shape),
        ],
        [
            helper.make_tensor_value_info(f"exit{layer}", TensorProto.FLOAT, ["batch", 5])
            for layer in range(layers)
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def run(model: ir.Model, folder: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    path = folder / "graph.onnx"
    onnx_file.write(model, path)
    runner = Runner(path, threads=1)
    return runner.run({name: arrays[name] for name in runner.inputs})


def called(model: ir.Model, folder: Path, place: int, arrays: Batch) -> Batch:
    """What `Buckets.run` calls."""
    return run(model, folder, dict(arrays))


def inputs(batch: int, sequence: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    mask = np.ones((batch, sequence), np.int64)
    mask[0, sequence // 2 :] = 0
    return {"x": rng.normal(size=(batch, sequence, WIDTH)).astype(np.float32), "mask": mask}


STAGES = [{f"exit{layer}": "logits"} for layer in range(LAYERS)]


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
def test_pieces_give_what_the_whole_gives(tmp_path: Path, quantized: bool) -> None:
    model = encoder()
    if quantized:
        applied = DynamicInt8().apply(model, Context())
        assert applied.changed
        model = applied.graph
    pieces = cut(model, STAGES)
    for batch, sequence in ((1, 4), (3, 9)):
        given = inputs(batch, sequence)
        expected = run(model, tmp_path, given)
        state = dict(given)
        for layer, piece in enumerate(pieces):
            state |= run(piece.graph, tmp_path, state)
            np.testing.assert_allclose(state["logits"], expected[f"exit{layer}"], atol=1e-6)


def names(piece: Piece) -> set[str]:
    return {value.name or "" for value in piece.graph.graph.inputs}


def test_what_crosses_has_rows_and_is_described() -> None:
    first, second, third = cut(encoder(), STAGES)
    assert [spec.name for spec in first.outputs] == ["logits", "hidden0"]
    assert str(first.outputs[1]) == f"hidden0: float32[batch, sequence, {WIDTH}]"
    assert [spec.name for spec in second.outputs] == ["logits", "hidden1"]
    # The shape that all layers reshape to is found out again, from the input that it is the shape of, and
    # so is what is made of the mask.
    assert names(second) == {"x", "hidden0", "mask"}
    assert names(third) == {"x", "hidden1", "mask"}
    held = [set(piece.graph.graph.initializers) for piece in (first, second, third)]
    assert all(f"w{layer}" in held[place] for layer, place in enumerate(range(LAYERS)))
    assert not held[0] & held[1] - {"one", "last"}


ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
attention (float[batch, sequence, 8] x, int64[batch, sequence] mask)
    => (float[batch, 8] exit0, float[batch, 8] exit1)
<int64[1] middle = {1}, int64[1] last = {2}, int64 start = {0}, int64 step = {1}, float one = {1},
 float lowest = {-1e9}>
{
    kept = Cast<to = 1> (mask)
    there = Unsqueeze (kept, last)
    wide = Unsqueeze (kept, middle)
    absent = Sub (one, wide)
    without = Mul (absent, lowest)
    sizes = Shape<start = 1, end = 2> (mask)
    size = Squeeze (sizes)
    keys = Range (start, size, step)
    queries = Unsqueeze (keys, middle)
    before = LessOrEqual (keys, queries)
    causal = Where (before, without, lowest)
    LAYERS
}
"""
LAYER = """
    turnedN = Transpose<perm = [0, 2, 1]> (X)
    scoresN = MatMul (X, turnedN)
    maskedN = Add (scoresN, BIAS)
    weightsN = Softmax (maskedN)
    hiddenN = MatMul (weightsN, X)
    seenN = Mul (hiddenN, there)
    exitN = ReduceSum<keepdims = 0> (seenN, middle)
"""
ENDS = [{"exit0": "answer"}, {"exit1": "answer"}]


def attention(bias: str) -> ir.Model:
    """Two layers whose scores get a mask added, of tokens that are there or of those behind each, too."""
    layers = [LAYER.replace("N", str(place)).replace("X", x) for place, x in enumerate(("x", "hidden0"))]
    text = ATTENTION.replace("LAYERS", "".join(layers)).replace("BIAS", bias)
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize("bias", ["without", "causal"])
def test_what_engines_fill_up_is_absent_in_every_piece(tmp_path: Path, bias: str) -> None:
    """A mask that is added to scores holds 0 where there is a token, and would not where zeros are filled
    in."""
    model = attention(bias)
    given = {"x": inputs(2, 5)["x"][..., :8], "mask": inputs(2, 5)["mask"]}
    expected, state = run(model, tmp_path, given), dict(given)
    for layer, piece in enumerate(cut(model, ENDS)):
        buckets = Buckets.of(specs(piece.graph.graph.inputs), piece.outputs, {"sequence": [8]})
        state |= buckets.run(
            {name: state[name] for name in names(piece)},
            partial(called, piece.graph, tmp_path),
        )
        np.testing.assert_allclose(state["answer"], expected[f"exit{layer}"], rtol=1e-5)


def test_where_tokens_are_dropped_those_left_keep_their_places() -> None:
    pieces = [cut(attention(bias), ENDS, shortened=True) for bias in ("without", "causal")]
    passed = [[spec.name for spec in first.outputs] for first, _ in pieces]
    assert passed == [["answer", "hidden0"], ["answer", "hidden0", "causal"]]


def test_what_depends_on_other_tokens_crosses() -> None:
    """How many tokens there are, or which is the first, is not the same where some were dropped."""
    model = encoder(2)
    graph = model.graph
    making = next(node for node in graph if node.outputs[0].name == "gain")
    gain = making.outputs[0]
    count = ir.node("ReduceSum", [gain, graph.initializers["one"]], outputs=[ir.Value(name="count")])
    share = ir.node("Div", [gain, count.outputs[0]], outputs=[ir.Value(name="share")])
    for node in list(graph):
        if node.op_type == "Mul":
            node.replace_input_with(1, share.outputs[0])
    graph.insert_after(making, [count, share])
    first, _ = cut(model, STAGES[:2])
    assert [spec.name for spec in first.outputs] == ["logits", "hidden0", "share"]


def test_quantized_activations_do_not_cross() -> None:
    pieces = cut(DynamicInt8().apply(encoder(), Context()).graph, STAGES)
    for piece in pieces:
        assert {spec.dtype for spec in piece.outputs} == {"float32"}


def test_the_model_is_left_as_it_was() -> None:
    model = encoder()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    cut(model, STAGES)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{"exit7": "logits"}], "no output 'exit7'"),
        ([{"exit1": "logits"}, {"exit1": "logits"}], "nothing to compute"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: list[dict[str, str]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        cut(encoder(), stages)


def test_a_model_of_one_batch_cannot_be_cut() -> None:
    model = encoder()
    for value in model.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([1, *value.shape[1:]])
    with pytest.raises(InputError, match="no batch of any size"):
        cut(model, STAGES)
