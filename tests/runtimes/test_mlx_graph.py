"""Every operator computes in MLX what ONNX Runtime computes; weights are held in other forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from openglm.model.modules import KNOWN
from openglm.model.sources import onnx_file
from openglm.runtimes.engine import Source
from openglm.runtimes.mlx import MLX
from openglm.runtimes.mlx_graph.operators import OPERATORS
from operator_cases import CASES, graph_of, ints, run, x

PICTURE = x(2, 4, 8, 6)
MORE: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("AveragePool", [PICTURE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
    ("AveragePool", [PICTURE], {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    ("ConvTranspose", [x(2, 4, 9), x(4, 3, 4)], {"strides": [2], "pads": [0, 1], "dilations": [2]}),
    ("Pad", [PICTURE, ints(0, 0, -1, 2, 0, 0, 3, -2)], {}),
    ("Pad", [PICTURE, ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "edge"}),
    ("Resize", [PICTURE, None, None, ints(2, 4, 11, 4)], {"mode": "cubic"}),
    ("Resize", [PICTURE, None, None, ints(2, 4, 11, 4)], {"nearest_mode": "ceil"}),
]
"""Forms that PyTorch has not, or has in another way."""


@pytest.mark.parametrize("constant", [True, False], ids=["constants", "inputs"])
@pytest.mark.parametrize(
    ("name", "given", "settings"), [*CASES, *MORE], ids=lambda value: value if isinstance(value, str) else ""
)
def test_as_onnx_runtime_has_it(
    name: str, given: list[Any], settings: dict[str, Any], constant: bool, tmp_path: Path
) -> None:
    if not constant and name in ("Conv", "ConvTranspose"):
        return
    model = graph_of(name, given, settings, constant)
    arrays = {f"v{place}": np.asarray(array) for place, array in enumerate(given) if array is not None}
    inputs = {str(value.name): arrays[str(value.name)] for value in model.graph.inputs}
    truths = run(model, inputs)
    for value, truth in zip(model.graph.outputs, truths, strict=True):
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(truth.dtype)), ir.Shape(truth.shape)
    path, target = tmp_path / "graph.onnx", tmp_path / "graph.safetensors"
    onnx_file.write(model, path)
    MLX().convert(Source(path, path), target, "fp32")
    found = MLX().load(target).run(inputs).values()
    for ours, truth in zip(found, truths, strict=True):
        assert (ours.shape, ours.dtype) == (truth.shape, truth.dtype)
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


def test_it_knows_what_the_torch_translation_knows() -> None:
    assert set(OPERATORS) - {"SmallGather", "SmallMatMul"} == KNOWN - {"Constant"}
