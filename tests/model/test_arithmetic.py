"""Logic as arithmetic on floats: the same answers, and no truth value or choice left."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from openglm.model.modules.arithmetic import prepare
from openglm.model.modules.graph_module import of_graph

VALUES = torch.tensor([[-2.0, 0.0, 1.0, 1.0, 3e38], [1.0, -0.0, 1.0000001, -1.0, 3e38]])


def both(body: str, *given: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What a graph of x and y gives as a module, and as arithmetic on floats."""
    text = f'<ir_version: 10, opset_import: ["": 20]> g (float[5] x, float[5] y) => (float[5] z) {body}'
    graph = ir.from_proto(onnx.parser.parse_model(text))
    module = of_graph(graph)
    expected = module(*given)
    assert prepare(module) == [("x", "numbers"), ("y", "numbers")]
    return module(*given).numpy(), expected.numpy()


@pytest.mark.parametrize("name", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_what_compares(name: str) -> None:
    found, expected = both(f"{{ t = {name}(x, y) z = Cast<to = 1>(t) }}", *VALUES)
    np.testing.assert_array_equal(found, expected)


def test_what_is_true_and_what_is_chosen() -> None:
    body = """<float[5] low = {-inf, -inf, -inf, -inf, -inf}> {
        a = Less(x, y) b = Equal(x, y) c = Or(a, b) d = Not(a) e = And(c, d) z = Where(e, x, low)
    }"""
    found, expected = both(body, *VALUES)
    np.testing.assert_array_equal(found, np.maximum(expected, np.finfo(np.float32).min))


def test_what_casts() -> None:
    body = "{ t = Cast<to = 9>(x) a = Cast<to = 1>(t) w = Cast<to = 7>(y) b = Cast<to = 1>(w) z = Add(a, b) }"
    found, expected = both(body, torch.tensor([0.0, 0.5, -2, 0, 1]), torch.tensor([1.7, -1.7, 0.2, 5, -0.9]))
    np.testing.assert_array_equal(found, expected)


def test_slopes_and_norms() -> None:
    body = """<float[2] s = {0.1, 0.2}, float[2] b = {1, 2}, float[2, 1] slope = {0.5, 0.25}> {
        n = InstanceNormalization(x, s, b) z = PRelu(n, slope)
    }"""
    graph = ir.from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["": 20]> g (float[1, 2, 6] x) => (float[1, 2, 6] z) {body}'
        )
    )
    module, given = of_graph(graph), torch.randn(1, 2, 6, generator=torch.Generator().manual_seed(0))
    expected = module(given)
    prepare(module)
    torch.testing.assert_close(module(given), expected)


def test_ids_that_are_compared_too_come_twice() -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (int64[1, 4] ids) => (float[1, 4, 2] z)
    <float[3, 2] table = {0, 1, 2, 3, 4, 5}, int64 pad = {0}> {
        e = Gather(table, ids) t = Equal(ids, pad) m = Not(t) f = Cast<to = 1>(m)
        axes = Constant<value_ints = [2]>() u = Unsqueeze(f, axes) z = Mul(e, u)
    }"""
    module = of_graph(ir.from_proto(onnx.parser.parse_model(text)))
    ids = torch.tensor([[1, 0, 2, 0]])
    expected = module(ids)
    assert prepare(module) == [("ids", "ids"), ("ids", "numbers")]
    torch.testing.assert_close(module(ids.int(), ids.float()), expected)
