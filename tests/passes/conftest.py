"""Small graphs, and what they compute."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort
import pytest

from openglm.model.sources import onnx_file
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.runtimes.onnxruntime import Runner

Arrays = Mapping[str, np.ndarray]


def _build(text: str, *, opset: int = 20, functions: str = "", **initializers: np.ndarray) -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1, "own" : 1]>'
    proto = onnx.parser.parse_model(header + text + functions)
    for name, array in initializers.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def _run(model: ir.Model, feeds: Arrays, *, optimized: bool = True) -> dict[str, np.ndarray]:
    content = ir.to_proto(model).SerializeToString()
    if optimized:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(content)
            return Runner(path).run(feeds)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _define(model: ir.Model, feeds: Arrays) -> dict[str, np.ndarray]:
    evaluator = onnx.reference.ReferenceEvaluator(ir.to_proto(model))
    found: Any = evaluator.run(None, dict(feeds))
    return dict(zip(evaluator.output_names, found, strict=True))


def _interface(model: ir.Model) -> list[tuple[str | None, Any, str]]:
    return [(v.name, v.dtype, str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """A graph from ONNX's text form, with constants by name."""
    return _build


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, np.ndarray]]:
    """What ONNX Runtime computes."""
    return _run


@pytest.fixture(scope="session")
def define() -> Callable[..., dict[str, np.ndarray]]:
    """What ONNX's own reference, in numpy, computes: the same on every processor."""
    return _define


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., Applied]:
    """Apply a pass, and check what holds for every pass."""

    def applied(config: GraphPass, model: ir.Model, batches: Iterable[Arrays] | None = None) -> Applied:
        before = ir.to_proto(model).SerializeToString()
        context = Context() if batches is None else Context(calibration=lambda: batches)
        result = config.apply(model, context)
        proto = ir.to_proto(result.graph)  # names its tensors: none of them may be the original's
        assert ir.to_proto(model).SerializeToString() == before, "the graph that was given changed"
        assert _interface(result.graph) == _interface(model)
        onnx.checker.check_model(proto)
        path = tmp_path / "model.onnx"
        onnx_file.write(result.graph, path)
        assert ir.to_proto(onnx_file.read(path)).graph.node == proto.graph.node
        assert Runner(path).outputs == [value.name for value in model.graph.outputs]
        return result

    return applied


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same at each run."""
    return np.random.default_rng(0)
