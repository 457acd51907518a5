"""A statically quantized graph as a module: the same integers as in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from openglm.model.modules.integers import of_static
from openglm.model.sources import onnx_file
from openglm.runtimes.onnxruntime import Runner

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
g (float[1,3,6,6] x) => (float[1,4,6,6] y) {{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis={axis}>(weight, scale, zero)
    c = Conv<pads=[1,1,1,1]>(d, w)
    r = Relu(c)
    p = QuantizeLinear(r, t, o)
    y = DequantizeLinear(p, t, o)
}}
"""


def written(path: Path, axis: int, **arrays: np.ndarray) -> Path:
    proto = onnx.parser.parse_model(GRAPH.format(axis=axis))
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx_file.write(ir.from_proto(proto), path)
    return path


def both(path: Path, folded: bool) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)
    with torch.no_grad():
        found = of_static(onnx_file.read(path), folded=folded)(torch.from_numpy(x))
    return found.numpy(), Runner(path, threads=1).run({"x": x})["y"]


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_it_answers_as_the_graph_does(tmp_path: Path, folded: bool, kind: type, per_channel: bool) -> None:
    rng = np.random.default_rng(0)
    middle = 128 if kind is np.uint8 else 0
    many = (4,) if per_channel else ()
    path = written(
        tmp_path / "g.onnx",
        0,
        s=np.array(0.03, np.float32),
        z=np.array(middle + 7, kind),
        t=np.array(0.04, np.float32),
        o=np.array(middle - 128, kind),
        weight=rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        scale=rng.uniform(0.001, 0.01, many).astype(np.float32),
        zero=np.zeros(many, np.int8),
    )
    found, expected = both(path, folded)
    steps = np.abs(found - expected) / 0.04
    assert expected.any()
    assert steps.max() < 1.5, "at most one step apart, where a half is rounded the other way"
    assert (steps > 0.5).mean() < 0.02


@pytest.mark.parametrize("folded", [False, True])
def test_weights_about_another_number_than_zero(tmp_path: Path, folded: bool) -> None:
    rng = np.random.default_rng(0)
    path = written(
        tmp_path / "g.onnx",
        0,
        s=np.array(0.03, np.float32),
        z=np.array(128, np.uint8),
        t=np.array(0.04, np.float32),
        o=np.array(0, np.uint8),
        weight=rng.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8),
        scale=np.array(0.004, np.float32),
        zero=np.array(120, np.uint8),
    )
    found, expected = both(path, folded)
    assert np.abs(found - expected).max() <= 0.09


def test_a_layer_whose_result_stays_float_has_float_weights(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,8] x) => (float[2,3] y) {'
        " q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
        " w = DequantizeLinear<axis=1>(weight, scale) y = MatMul(d, w) }"
    )
    rng = np.random.default_rng(0)
    for name, array in {
        "s": np.array(0.03, np.float32),
        "z": np.array(0, np.int8),
        "weight": rng.integers(-127, 128, (8, 3)).astype(np.int8),
        "scale": np.array([0.1, 0.2, 0.3], np.float32),
    }.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    module = of_static(ir.from_proto(proto), folded=True)
    (layer,) = [each for each in module.modules() if isinstance(each, torch.nn.Linear)]
    assert layer.weight.dtype == torch.float32
    weight = proto.graph.initializer[2]
    expected = onnx.numpy_helper.to_array(weight) * np.array([0.1, 0.2, 0.3], np.float32)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected.T, rtol=1e-6)
