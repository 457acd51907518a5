"""What every engine does: convert, load, and answer as ONNX Runtime does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from openglm.bundle.manifest import Precision
from openglm.errors import InputError, MissingExtraError
from openglm.model.sources import onnx_file
from openglm.runtimes import batches
from openglm.runtimes import engine as room
from openglm.runtimes.engine import Source, engine, engines
from openglm.runtimes.onnxruntime import Runner

SIZES = {"batch": [1]}
NAMES = ("executorch", "litert", "mlx", "mnn", "ncnn", "onnxruntime", "openvino")


@pytest.fixture
def source(conv_file: Path, tmp_path: Path) -> Source:
    calibration = tmp_path / "calibration.npz"
    batches.save([feeds(conv_file)], calibration)
    return Source(conv_file, conv_file, SIZES, calibration)


def feeds(path: Path) -> dict[str, np.ndarray]:
    (given,) = onnx_file.read(path).graph.inputs
    assert given.shape is not None
    shape = [size if isinstance(size, int) else 2 for size in given.shape]
    return {str(given.name): np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def test_all_are_known_and_installed_here() -> None:
    assert set(NAMES) <= set(engines())
    for name in NAMES:
        found = engines()[name]
        assert found.version, f"the project's own set-up installs {name}"
        assert not found.lacking
        assert found.processors()
        assert found.install.startswith("pip install")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "far"), [("fp32", 1e-4), ("fp16", 1e-2), ("int8", 0.1)])
def test_answers_are_those_of_onnx_runtime(
    source: Source, tmp_path: Path, name: str, precision: Precision, far: float
) -> None:
    found = engine(name)
    if precision not in found.precisions:
        return
    target = tmp_path / f"model{found.suffix}"
    found.convert(source, target, precision)
    assert all(file.is_file() for file in found.files(target))
    loaded = found.load(target, threads=1)
    given = feeds(source.graph)
    assert loaded.inputs == list(given)
    expected = Runner(source.graph, threads=1).run(given)
    answers = loaded.run(given)
    assert list(answers) == list(expected)
    for key, array in expected.items():
        assert answers[key].shape == array.shape
        assert np.abs(answers[key] - array).max() < far * np.abs(array).max()


@pytest.mark.parametrize("name", ["executorch", "litert", "mlx", "mnn", "ncnn", "openvino"])
def test_any_size_that_the_graph_leaves_open(
    name: str, build_free: Callable[[Path], Source], tmp_path: Path
) -> None:
    source = build_free(tmp_path / "free.onnx")
    found = engine(name)
    target = tmp_path / f"model{found.suffix}"
    found.convert(source, target, "fp32")
    loaded = found.load(target, threads=1)
    for rows in (1, 5, 2):
        given = {"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)}
        np.testing.assert_allclose(loaded.run(given)["y"], np.maximum(given["x"], 3), rtol=1e-6)


@pytest.fixture
def build_free() -> Callable[[Path], Source]:
    def build(path: Path) -> Source:
        x = ir.val("x", ir.DataType.FLOAT, ["n", 4])
        least = ir.val("least", const_value=ir.tensor(np.array(3, np.float32), name="least"))
        node = ir.node("Max", [x, least])
        y = node.outputs[0]
        y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 4])
        graph = ir.Graph([x], [y], nodes=[node], initializers=[least], opset_imports={"": 20}, name="free")
        onnx_file.write(ir.Model(graph, ir_version=10), path)
        return Source(path, path, {"n": [5]})

    return build


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_none_is_told_of(name: str, tmp_path: Path) -> None:
    found = engine(name)
    broken = tmp_path / f"broken{found.suffix}"
    broken.write_bytes(b"not a model")
    for file in found.files(broken)[1:]:
        file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="broken"):
        found.load(broken)


@pytest.mark.parametrize("name", ["executorch", "litert", "mlx", "mnn", "ncnn", "openvino"])
def test_an_operator_it_does_not_know_is_named(name: str, tmp_path: Path) -> None:
    x = ir.val("x", ir.DataType.FLOAT, [2])
    node = ir.node("NoSuchOperator", [x], domain="own")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([2])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 20, "own": 1}, name="g")
    path = tmp_path / "unknown.onnx"
    onnx_file.write(ir.Model(graph, ir_version=10), path)
    found = engine(name)
    source = Source(path, path)
    with pytest.raises(InputError, match="NoSuchOperator"):
        found.convert(source, tmp_path / f"model{found.suffix}", "fp32")


def test_an_unknown_engine() -> None:
    with pytest.raises(InputError, match="mnm") as caught:
        engine("mnm")
    assert "mnn" in caught.value.advice


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_version", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"MNN.*is not installed"):
        engine("mnn")
    assert engines()["openvino"].lacking == ("openvino", "nncf")


OWN = """
from openglm.runtimes.engine import Engine, engine


class Own(Engine):
    name, title, package, precisions, suffix = "own", "My own", "numpy", ("fp32",), ".own"

    def processors(self): return ("CPU",)

    def convert(self, source, target, precision): ...

    def load(self, path, *, threads=None): ...


print(engine("own").title)
"""


def test_one_of_ones_own_is_found() -> None:
    done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, check=True)
    assert done.stdout == "My own\n"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "onnxruntime"])
def test_names_that_python_takes_for_no_parameter(name: str, tmp_path: Path) -> None:
    """As TensorFlow's exporters write them."""
    x = ir.val("serving_default_x:0", ir.DataType.FLOAT, [1, 4])
    node = ir.node("Relu", [x])
    y = node.outputs[0]
    y.name, y.type, y.shape = "Call:1", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 4])
    path = tmp_path / "net.onnx"
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 20}, name="net")
    onnx_file.write(ir.Model(graph, ir_version=10), path)
    found = engine(name)
    target = tmp_path / f"model{found.suffix}"
    found.convert(Source(path, path), target, "fp32")
    given = np.array([[-1, 2, -3, 4]], np.float32)
    (array,) = found.load(target, threads=1).run({"serving_default_x:0": given}).values()
    np.testing.assert_array_equal(array, np.maximum(given, 0))
