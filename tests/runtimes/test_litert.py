"""LiteRT's own: which operators a file computes in integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from openglm.runtimes.engine import Source
from openglm.runtimes.litert import LiteRT
from openglm.runtimes.onnxruntime import Runner
from openglm.targets.proof import prove


def operators(path: Path) -> Counter[tuple[str, str]]:
    """How many of each operator there are with an output of each type."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # which would take operators together
    interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
    types = {each["index"]: each["dtype"].__name__ for each in interpreter.get_tensor_details()}
    return Counter((each["op_name"], types[each["outputs"][0]]) for each in interpreter._get_ops_details())


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_convolutions_are_integers_from_one_to_the_next(name: str, static_nets: Path, tmp_path: Path) -> None:
    source = Source(static_nets / f"{name}.onnx", static_nets / f"{name}.plain.onnx", {"batch": [1]})
    engine = LiteRT()
    engine.convert(source, whole := tmp_path / "fp32.tflite", "fp32")
    engine.convert(source, small := tmp_path / "int8.tflite", "int8")
    found = operators(small)
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D")
    # The first convolution reads a picture and stays float, as in the graph.
    assert sum(found[kind, "float32"] for kind in kinds) == 1
    assert sum(found[kind, "int8"] for kind in kinds) >= 4
    assert found["ADD", "int8"] == 1
    assert (found["QUANTIZE", "int8"], found["DEQUANTIZE", "float32"]) == (1, 1), "nothing goes in between"
    assert small.stat().st_size < 0.45 * whole.stat().st_size


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_it_rounds_as_the_bundle_does(name: str, static_nets: Path, tmp_path: Path) -> None:
    path = static_nets / f"{name}.onnx"
    source = Source(path, static_nets / f"{name}.plain.onnx", {"batch": [1]})
    LiteRT().convert(source, target := tmp_path / "int8.tflite", "int8")
    rng = np.random.default_rng(3)
    batches = [{"pixel_values": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(8)]
    ours, theirs = Runner(path, threads=1), LiteRT().load(target, threads=1)
    proof = prove([theirs.run(each) for each in batches], [ours.run(each) for each in batches])
    assert proof.cosine > 0.998


def test_half_precision_is_half_as_large(static_nets: Path, tmp_path: Path) -> None:
    source = Source(static_nets / "residual.onnx", static_nets / "residual.plain.onnx", {"batch": [1]})
    sizes = {}
    for precision in ("fp32", "fp16"):
        LiteRT().convert(source, target := tmp_path / f"{precision}.tflite", precision)
        sizes[precision] = target.stat().st_size
    assert sizes["fp16"] < 0.6 * sizes["fp32"]


def test_what_is_repeated_along_an_axis_in_the_middle(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 5, 1] x) => (float[1, 4, 1, 8] y)
        <int64[6] around = {0, 2, 0, 0, 3, 0}, int64[1] first = {1}, int64[4] shape = {-1, 1, 1, 10}>
        {
            wide = Pad <mode = "reflect"> (x, around)
            more = Unsqueeze (wide, first)
            row = Reshape (more, shape)
            y = Conv (row, kernel)
        }""")
    kernel = np.random.default_rng(0).normal(size=(4, 1, 1, 3)).astype(np.float32)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "kernel"))
    onnx.save(graph, path := tmp_path / "graph.onnx")
    engine = LiteRT()
    engine.convert(Source(path, path), target := tmp_path / "graph.tflite", "fp32")
    given = {"x": np.random.default_rng(1).normal(size=(1, 5, 1)).astype(np.float32)}
    found, expected = engine.load(target, threads=1).run(given), Runner(path, threads=1).run(given)
    np.testing.assert_allclose(found["y"], expected["y"], atol=1e-6)
