"""Outputs beside a graph's own, and the graph without them."""

from __future__ import annotations

import json

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.model.extra_outputs import NAMED, plain


@pytest.fixture
def graph() -> ir.Model:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 20]>
        g (float[n,4] x) => (float[n,4] y, float[n,4] exit_1) {
            a = Relu(x) y = Neg(a) b = Mul(a, w) exit_1 = Exp(b)
        }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(4, np.float32), "w"))
    return ir.from_proto(proto)


def test_what_only_they_need_goes(graph: ir.Model) -> None:
    graph.metadata_props[NAMED] = json.dumps(["exit_1"])
    found = plain(graph)
    assert [value.name for value in found.graph.outputs] == ["y"]
    assert [node.op_type for node in found.graph] == ["Relu", "Neg"]
    assert NAMED not in found.metadata_props
    assert [value.name for value in graph.graph.outputs] == ["y", "exit_1"], "itself it stays as it is"


def test_a_graph_that_names_none_keeps_all(graph: ir.Model) -> None:
    assert plain(graph) is graph
