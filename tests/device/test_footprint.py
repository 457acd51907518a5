"""What a process needs for a model: of which weights, and how often."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.device.footprint import (
    ACTIVATION_SHARE,
    ENGINE_BYTES,
    HELD_SHARE,
    LOADING_SHARE,
    Footprint,
    footprint,
)
from openglm.model.analysis.statistics import analyse

SIDE = 64
SQUARE = SIDE * SIDE * 4


def found(signature: str, body: str, activations: int = 0, **weights: tuple[int, ...]) -> Footprint:
    """The footprint of a graph with float weights of these shapes."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {signature} {{ {body} }}')
    for name, shape in weights.items():
        tensor = onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        proto.graph.initializer.append(tensor)
    return footprint(analyse(ir.from_proto(proto)), activations)


def test_a_product_is_held_once() -> None:
    signature = f"(float[1, {SIDE}] x) => (float[1, {SIDE}] y)"
    taken = found(signature, "y = MatMul(x, w)", 1000, w=(SIDE, SIDE))
    assert (taken.weights, taken.copies) == (SQUARE, 0)
    assert taken.peak == ENGINE_BYTES + SQUARE + 1000 * ACTIVATION_SHARE


def test_a_convolution_is_reordered_while_loading() -> None:
    signature = "(float[1, 64, 8, 8] x) => (float[1, 64, 8, 8] y)"
    taken = found(signature, "y = Conv <kernel_shape = [1, 1]> (x, w)", 10, w=(SIDE, SIDE, 1, 1))
    assert taken.weights == pytest.approx(SQUARE * HELD_SHARE)
    assert taken.peak == pytest.approx(ENGINE_BYTES + SQUARE * (HELD_SHARE + LOADING_SHARE))


def test_of_a_table_rows_are_read_unless_it_is_multiplied_too() -> None:
    signature = f"(int64[3] i) => (float[3, {SIDE}] y)"
    assert found(signature, "y = Gather(w, i)", w=(SIDE, SIDE)).weights == 0
    body = "g = Gather(w, i) y = MatMul(g, w)"
    assert found(signature, body, w=(SIDE, SIDE)).weights == SQUARE


def test_what_is_computed_from_constants_is_held_in_their_place() -> None:
    signature = f"(float[1, {SIDE}] x) => (float[1, {2 * SIDE}] y)"
    body = "t = Transpose(w) u = Concat <axis = 1> (t, t) y = MatMul(x, u)"
    assert found(signature, body, w=(SIDE, SIDE)).weights == 3 * SQUARE
