"""TensorRT up to the engine build: it needs an NVIDIA GPU, which no machine of the tests has."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from openglm.errors import InputError, MissingExtraError
from openglm.model.sources import onnx_file
from openglm.runtimes.engine import Source, engine, engines
from openglm.runtimes.tensorrt import ROWS, ranges


@pytest.fixture
def source(tmp_path: Path) -> Source:
    x, y = ir.val("x", ir.DataType.FLOAT, ["n", "length", 4]), ir.val("y", ir.DataType.FLOAT, ["n", 1, 4])
    node = ir.node("Add", [x, y])
    z = node.outputs[0]
    z.name, z.type, z.shape = "z", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", "length", 4])
    path = tmp_path / "add.onnx"
    graph = ir.Graph([x, y], [z], nodes=[node], opset_imports={"": 20}, name="g")
    onnx_file.write(ir.Model(graph, ir_version=10), path)
    return Source(path, path, {"n": [3], "length": [64, 16, 32]})


@pytest.mark.skipif(engines()["tensorrt"].version is not None, reason="TensorRT is installed")
def test_how_to_get_it_is_told() -> None:
    with pytest.raises(MissingExtraError, match=r"TensorRT.*openglm\[tensorrt\]"):
        engine("tensorrt")
    assert engines()["tensorrt"].lacking[0] == "tensorrt"


def test_open_sizes_go_up_to_the_largest(source: Source) -> None:
    assert ranges(source) == {
        "x": ((1, 1, 4), (1, 32, 4), (ROWS, 64, 4)),
        "y": ((1, 1, 4), (1, 1, 4), (ROWS, 1, 4)),
    }


def test_int8_wants_ranges(source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only for graphs whose activations have ranges"):
        engines()["tensorrt"].convert(source, tmp_path / "model.engine", "int8")
