"""What the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with one linear layer, 64 by 64, and a ReLU."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[batch, 64] x) => (float[batch, 64] y)'
        " { h = MatMul(x, w)  y = Relu(h) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    path = tmp_path / "small.onnx"
    onnx.save(proto, path)
    return path
