"""Pieces of a graph, run one after another, against the whole in the same engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from openglm.dynamic.cutting import Piece, cut
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
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
    assert [spec.name for spec in first.outputs] == ["logits", "hidden0", "gain"]
    assert str(first.outputs[1]) == f"hidden0: float32[batch, sequence, {WIDTH}]"
    assert str(first.outputs[2]) == "gain: float32[batch, sequence, 1]"
    assert [spec.name for spec in second.outputs] == ["logits", "hidden1"]
    # The shape that all layers reshape to is found out again, from the input that it is the shape of.
    assert names(second) == {"x", "hidden0", "gain"}
    assert names(third) == {"x", "hidden1", "gain"}
    held = [set(piece.graph.graph.initializers) for piece in (first, second, third)]
    assert all(f"w{layer}" in held[place] for layer, place in enumerate(range(LAYERS)))
    assert not held[0] & held[1] - {"one", "last"}


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
