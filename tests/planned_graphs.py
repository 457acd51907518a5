"""Graphs and buffers that the tests of memory planning share."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper

from openglm.memory.problem import Span

FLOAT = TensorProto.FLOAT

# 10 are alive at most, and every plan needs 11. (Found by random search, proven by another solver.)
HOLE = [
    Span(1, 4, 3), Span(3, 4, 5), Span(4, 5, 3), Span(4, 5, 3), Span(5, 6, 4), Span(4, 6, 2), Span(6, 7, 4),
    Span(3, 7, 2), Span(5, 7, 1), Span(5, 8, 1), Span(6, 8, 1), Span(7, 8, 4), Span(7, 8, 4),
]  # fmt: skip


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + text))


# Two wide branches that shrink: run one after the other they need less than side by side, as written.
BRANCHES = """g (float[1, 8] x) => (float[1, 8] y) {
  a = Concat <axis = 1> (x, x, x, x, x, x, x, x)
  b = Concat <axis = 1> (x, x, x, x, x, x, x, x)
  c = ReduceSum (a)  d = ReduceSum (b)
  e = Add (c, d)  y = Add (x, e) }"""

# A residual network with views, in-place operators, a split and a branch that is unused.
MIXED = """g (float[2, 12] x) => (float[2, 12] y, float[12, 2] z) {
  h = MatMul (x, w)  r = Relu (h)  v = Reshape (r, s)  t = Transpose (v)  u = Sigmoid (t)
  p, q = Split <axis = 0, num_outputs = 2> (u)  j = Concat <axis = 0> (q, p)  n = Reshape (j, s2)
  k = Tanh (n)  f = Mul (k, r)  unused = Neg (f)  y = Add (f, x)  z = Relu (v) }"""


def mixed() -> ir.Model:
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>' + MIXED)
    random = np.random.default_rng(0)
    for name, array in (
        ("w", random.standard_normal((12, 12)).astype(np.float32)),
        ("s", np.array([12, 2], np.int64)),
        ("s2", np.array([2, 12], np.int64)),
    ):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Graphs of Concat (a new, larger tensor), Relu (a new one) and Identity (a view)."""
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 3)))]
    values, nodes = list(inputs), []
    for step in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["Concat", "Relu", "Identity"]))
        count = draw(st.integers(1, 3)) if kind == "Concat" else 1
        sources = [draw(st.sampled_from(values)) for _ in range(count)]
        attributes = {"axis": 0} if kind == "Concat" else {}
        nodes.append(helper.make_node(kind, sources, [f"v{step}"], **attributes))
        values.append(f"v{step}")
    made = [value for value in values if value not in inputs]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, unique=True))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, [draw(st.integers(1, 9))]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
