"""Memory and load time of a model or a program, in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic import footprint
from openglm.dynamic.program import PROGRAM_FILE, ProgramFile, model_files, open_file
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec

PICTURE = {"pixel_values": np.zeros((1, 3, 16, 16), np.float32)}


def two_segments(conv_file: Path, folder: Path) -> Path:
    """A program that runs one model, and once more where its answer is not sure."""
    logits = TensorSpec(name="logits", dtype="float32", shape=("batch", 4))
    program = Program(
        segments=(
            Segment(
                name="small",
                models={"onnxruntime": "small.onnx"},
                outputs=(logits,),
                work=0.5,
                next="sure",
            ),
            Segment(name="large", models={"onnxruntime": "large.onnx"}, outputs=(logits,), work=0.5),
        ),
        gates=(Gate(name="sure", kind="confidence", settings={"threshold": 1}, routes=(None, "large")),),
    )
    for name in ("small", "large"):
        shutil.copyfile(conv_file, folder / f"{name}.onnx")
    path = folder / PROGRAM_FILE
    path.write_text(ProgramFile(program=program, outputs=(logits,)).model_dump_json(), encoding="utf-8")
    return path


def test_of_a_model(conv_file: Path) -> None:
    found = footprint.measure(conv_file, PICTURE, 1)
    assert found is not None
    assert found.load_ms > 0
    assert found.peak_mb is None or found.peak_mb > 0


def test_of_a_program(conv_file: Path, tmp_path: Path) -> None:
    path = two_segments(conv_file, tmp_path)
    found = footprint.measure(path, PICTURE, 1)
    assert found is not None
    assert found.load_ms > 0
    assert found.peak_mb is None or found.peak_mb > 0


def test_of_what_does_not_run(tmp_path: Path) -> None:
    assert footprint.measure(tmp_path / "none.onnx", {}, 1) is None


def test_a_model_and_a_program_are_opened_alike(conv_file: Path, tmp_path: Path) -> None:
    path = two_segments(conv_file, tmp_path)
    (tmp_path / "large.onnx.data").write_bytes(b"weights of their own")
    whole, program = (open_file(file, threads=1) for file in (conv_file, path))
    np.testing.assert_array_equal(whole.run(PICTURE)["logits"], program.run(PICTURE)["logits"])
    assert model_files(conv_file) == [conv_file]
    assert model_files(path) == [tmp_path / name for name in ("small.onnx", "large.onnx", "large.onnx.data")]
    (tmp_path / "large.onnx").unlink()
    with pytest.raises(InputError, match=r"cannot load large\.onnx"):
        open_file(path)
