"""int8 products are exact, on whatever processor the tests run; a processor is chosen by its name; what is
loaded together shares memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from openglm.errors import InputError
from openglm.runtimes.engine import engine, name_of
from openglm.runtimes.onnxruntime import _PROBE, Runner


def product(weights: np.ndarray) -> onnx.ModelProto:
    """y = x @ weights, x in uint8 and the weights in int8."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, columns])],
        [helper.make_tensor("w", TensorProto.INT8, weights.shape, weights.tobytes(), raw=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_the_largest_products_are_exact(tmp_path: Path) -> None:
    weights = np.where(np.random.default_rng(0).random((256, 48)) < 0.5, -128, 127).astype(np.int8)
    x = np.full((1, 256), 255, np.uint8)
    path = tmp_path / "product.onnx"
    onnx.save(product(weights), path)
    found = Runner(path, threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(found, x.astype(np.int64) @ weights.astype(np.int64))


def test_the_probe_is_what_is_said_of_it() -> None:
    assert onnx.load_from_string(_PROBE) == product(np.full((2, 1), 127, np.int8))


def test_a_processor_is_chosen_and_what_it_leaves_to_the_cpu_is_told(tmp_path: Path) -> None:
    """Azure's provider, which every build has, runs operators of its own only."""
    path = tmp_path / "product.onnx"
    onnx.save(product(np.ones((4, 2), np.int8)), path)
    chosen = engine("onnxruntime:azure")
    assert (chosen.name, chosen.label, name_of(chosen.label)) == (
        "onnxruntime", "onnxruntime:Azure", "onnxruntime",
    )  # fmt: skip
    assert chosen.placed(path) == {"Azure": [], "CPU": ["MatMulInteger"]}
    assert engine("onnxruntime").placed(path) == {"CPU": ["MatMulInteger"]}
    assert engine("onnxruntime").label == "onnxruntime", "another's choice is not its own"
    found = chosen.load(path, threads=1).run({"x": np.ones((1, 4), np.uint8)})["y"]
    np.testing.assert_array_equal(found, [[4, 4]])


def test_a_processor_that_the_build_has_not_is_told_of() -> None:
    with pytest.raises(InputError, match="no processor 'vulkan' here") as caught:
        engine("onnxruntime:vulkan")
    assert "CPU" in caught.value.advice
    with pytest.raises(InputError, match="chooses its processor by itself"):
        engine("mnn:gpu")


def test_what_is_loaded_together_shares_an_arena_that_goes_with_it(tmp_path: Path) -> None:
    """In a process of its own, whose memory nothing else has filled and freed before."""
    graph = helper.make_graph(
        [
            helper.make_node("Exp", ["x"], ["e"]),
            helper.make_node("Tanh", ["e"], ["t"]),
            helper.make_node("ReduceMax", ["t"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "g"
    )
    code = f"""
from pathlib import Path
import numpy as np
from openglm.dynamic.footprint import resident_mb
from openglm.runtimes.engine import engine

x = np.zeros(12_000_000, np.float32)  # 48 MB, and as much for each result
path, found = Path({str(tmp_path / "g")!r}), []
engine("onnxruntime").load(path, threads=1)
runners = engine("onnxruntime").load_each([path] * 4, threads=1)
before = resident_mb(peak=False)
for runner in runners:
    runner.run({{"x": x}})
    found.append(resident_mb(peak=False) - before)
del runner, runners
found.append(resident_mb(peak=False) - before)
print(*found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last, closed = map(float, done.stdout.split())
    assert first > 40, "results are kept in the arena"
    assert last < 2.5 * first, "four do not hold four times as much"
    assert closed < 0.2 * first, "none without them"


def test_what_is_loaded_together_answers_as_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for place, rows in enumerate((4, 7)):
        paths.append(tmp_path / f"{place}.onnx")
        onnx.save(product(rng.integers(-128, 128, (rows, 3)).astype(np.int8)), paths[-1])
    chosen = engine("onnxruntime")
    for loader in (chosen, chosen.lean()):
        for path, runner, rows in zip(paths, loader.load_each(paths, threads=1), (4, 7), strict=True):
            given = {"x": rng.integers(0, 256, (1, rows)).astype(np.uint8)}
            np.testing.assert_array_equal(runner.run(given)["y"], Runner(path, threads=1).run(given)["y"])
