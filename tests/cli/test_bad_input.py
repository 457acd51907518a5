"""Bad input: one sentence on what is wrong, one on what to do, the right exit code, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

Command = Callable[..., Any]
HEAD = '<ir_version: 10, opset_import: ["" : 20, "own" : 1]> g (float[n, 4] x) => (float[n, 4] y)'


def model(path: Path, body: str = "y = Relu(x)", **weights: np.ndarray) -> Path:
    proto = onnx.parser.parse_model(f"{HEAD} {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in weights.items()
    )
    path.write_bytes(proto.SerializeToString())
    return path


def cut(path: Path) -> Path:
    model(path, "y = MatMul(x, w)", w=np.ones((4, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-30])
    return path


def external(path: Path, location: str, size: int | None) -> Path:
    proto = onnx.parser.parse_model(f"{HEAD} {{ y = MatMul(x, w) }}")
    tensor = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location, 0, 64)
    tensor.ClearField("raw_data")
    proto.graph.initializer.append(tensor)
    path.write_bytes(proto.SerializeToString())
    if size is not None:
        (path.parent / location).write_bytes(bytes(size))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut .onnx": (lambda at: cut(at / "net.onnx"), "not a whole ONNX file"),
    "no .onnx": (lambda at: written(at / "net.onnx", b"hello"), "not a whole ONNX file"),
    "empty .onnx": (lambda at: written(at / "net.onnx", b""), "not a whole ONNX file"),
    "unknown operator": (lambda at: model(at / "net.onnx", "y = own.Magic(x)"), "ONNX Runtime cannot load"),
    "undefined input": (lambda at: model(at / "net.onnx", "y = Add(x, nothing)"), ""),
    "external data missing": (lambda at: external(at / "net.onnx", "net.data", None), "is missing"),
    "external data short": (
        lambda at: external(at / "net.onnx", "net.data", 63),
        "shorter than the model says",
    ),
    "external data outside": (
        lambda at: external(at / "net.onnx", "../net.data", None),
        "outside its own folder",
    ),
    "NaN": (
        lambda at: model(at / "net.onnx", "y = MatMul(x, w)", w=np.full((4, 4), np.nan, np.float32)),
        "NaN or infinite",
    ),
    "no .pt2": (lambda at: written(at / "net.pt2", b"hello"), "not a whole .pt2 file"),
    ".tflite": (lambda at: written(at / "net.tflite", b"hello"), "its beginning does not say TFL3"),
    ".gguf": (lambda at: written(at / "net.gguf", b"GGUF"), "is not supported"),
    ".bin": (lambda at: written(at / "net.bin", b"hello"), "is not supported"),
    ".pt": (lambda at: written(at / "net.pt", b"hello"), "is not supported"),
    "folder": (lambda at: (at / "net").mkdir() or at / "net", "is not supported"),
    "missing": (lambda at: at / "net.onnx", "There is no file"),
    "no zoo name": (lambda _: "all-minilm", "There is no model 'all-minilm'"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(command: Command, tmp_path: Path, name: str) -> None:
    make, text = SOURCES[name]
    (tmp_path / "in put").mkdir()
    source = make(tmp_path / "in put")
    before = sorted(tmp_path.rglob("*"))
    ran = command("optimize", source, "-d", "cortex-a53-2gb", "-o", tmp_path / "out" / "made", "--samples", 2)
    assert ran.code == 2, ran.err
    error, advice = [line for line in ran.err.splitlines() if line]
    assert error.startswith("Error: ")
    assert text in error
    assert error.endswith(".")
    assert advice.endswith((".", "?"))
    assert sorted(tmp_path.rglob("*")) == before  # nothing half written


@pytest.mark.parametrize("place", [["--debug", "verify"], ["verify", "--debug"]])
def test_debug_shows_the_traceback(finished: Command, place: list[str], tmp_path: Path) -> None:
    ran = finished(*place, tmp_path)
    assert ran.code == 1
    assert "Traceback" in ran.err
    assert "InputError" in ran.err
    assert "Traceback" not in finished("verify", tmp_path).err


def test_a_fault_of_ours(command: Command, conv_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("openglm.dynamic.session.load", broken)
    ran = command("verify", conv_bundle)
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "Error: an unexpected fault in openglm: ZeroDivisionError: oh",
        "Run the command again with --debug and report the traceback.",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["--metric", "accuracy"], "needs labels"), (["--data", "none.tsv"], "There is no file or folder"),
     (["--shape", "sequence=4"], "no input dimension"), (["--max-drop", "-1"], "makes no sense"),
     (["--latency-ms", "0"], "cannot be 0"), (["--device", "nokia-3310"], "nokia-3310")],
)  # fmt: skip
def test_settings(command: Command, conv_file: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    ran = command("optimize", conv_file, "-d", "cortex-a53-2gb", "-o", tmp_path / "made", *arguments)
    assert ran.code == 2
    assert text in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file/made", "file/deep/made.zip"])
def test_output_that_cannot_be_written(command: Command, conv_file: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    ran = command("optimize", conv_file, "-d", "cortex-a53-2gb", "-o", tmp_path / place)
    assert ran.code == 5
    assert "cannot be written" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04"])
def test_arrays_that_are_none(command: Command, conv_bundle: Path, tmp_path: Path, content: bytes) -> None:
    ran = command("run", conv_bundle, "--arrays", written(tmp_path / "in.npz", content))
    assert ran.code == 2
    assert "not a whole .npz" in ran.err


def test_pickled_arrays(command: Command, conv_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", pixel_values=np.array([{}], object))
    ran = command("run", conv_bundle, "--arrays", tmp_path / "in.npz")
    assert ran.code == 2
    assert "plain arrays" in ran.err


@pytest.mark.parametrize("command_name", ["run", "verify", "explain"])
def test_bundles(command: Command, bundle: Path, command_name: str) -> None:
    more = ["--text", "a"] if command_name == "run" else []
    (bundle / "model.onnx").unlink()
    ran = command(command_name, bundle, *more)
    assert ran.code == 4
    assert ran.err.splitlines() == [
        f"Error: The bundle {bundle} lacks its file model.onnx.",
        "Copy the bundle again.",
    ]


def test_a_command_line_that_would_crash_the_engine(text_bundle: Path, finished: Command) -> None:
    ran = finished("run", text_bundle, "--text", "good " * 10_000)
    assert ran.code == 2, ran
    assert "The command line has 50," in ran.err
    assert "from Python" in ran.err
    ran = finished("run", text_bundle, "--text", "good " * 5_000)
    assert ran.code >= 0, "it did not crash"
