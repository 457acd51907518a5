"""What the tests on emulated ARM processors share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.arm.install import COMMAND, Emulation, installed
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, parse_step


@pytest.fixture
def emulation(cache: Path) -> Emulation:
    """ARM emulation as it is set up here."""
    found = installed()
    if found is None:
        pytest.skip(f"ARM emulation is not set up: {COMMAND}")
    if found.uncounted:
        pytest.skip(f"ARM emulation counts no instructions: {found.uncounted}")
    return found


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A file with one linear layer and a ReLU in fp32: x (rows, 256) becomes y (rows, 128)."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[rows, 256] x) => (float[rows, 128] y)'
        " { h = MatMul(x, w)  y = Relu(h) }"
    )
    weight = np.random.default_rng(0).normal(size=(256, 128)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "layer.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture
def int8_layer(layer: Path) -> Path:
    """The same in int8."""
    path = layer.with_name("int8.onnx")
    step = parse_step({"pass": "dynamic_wi8_ai8"})
    onnx_file.write(step.apply(ir.load(layer), Context()).graph, path)
    return path


@pytest.fixture
def integers(tmp_path: Path) -> Path:
    """Quantization, convolution and products in int8 alone, their integers the outputs."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 16, 9, 9] x, uint8[4, 64] a)
          => (uint8[1, 24, 9, 9] conv, int32[4, 40] product, uint8[1, 16, 9, 9] q)
        {
          s = Constant<value = float {0.03}>()
          z = Constant<value = uint8 {121}>()
          t = Constant<value = float {0.11}>()
          u = Constant<value = uint8 {7}>()
          k = Constant<value = int8 {0}>()
          q = QuantizeLinear(x, s, z)
          conv = QLinearConv<pads = [1, 1, 1, 1]>(q, s, z, w, ws, k, t, u)
          product = MatMulInteger(a, b, z)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, array in {
        "w": rng.integers(-127, 128, (24, 16, 3, 3), np.int8),
        "b": rng.integers(-127, 128, (64, 40), np.int8),
        "ws": np.float32(0.004),
    }.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    path = tmp_path / "integers.onnx"
    onnx.save(proto, path)
    return path
