"""What verify says of .tflite files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from openglm.errors import InputError, VerificationError
from openglm.targets.model_file import SAMPLES, verify


def test_sound(tensorflow_files: Path) -> None:
    found = verify(tensorflow_files / "vision_int8.tflite")
    assert (found.samples, found.outputs) == (SAMPLES, 2)
    assert found.difference < 1e-3


@pytest.mark.parametrize(
    ("name", "told"), [("nan", "is not finite"), ("random", "other outputs for the same inputs")]
)
def test_unsound(tensorflow_files: Path, name: str, told: str) -> None:
    with pytest.raises(VerificationError, match=told):
        verify(tensorflow_files / f"{name}.tflite")


def test_an_operator_that_litert_does_not_have(tensorflow_files: Path, tmp_path: Path) -> None:
    model: Any = schema.ModelT.InitFromPackedBuf((tensorflow_files / "nan.tflite").read_bytes(), 0)
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, "TheirOwn"
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "net.tflite").write_bytes(builder.Output())
    with pytest.raises(VerificationError, match="does not run: LiteRT cannot load"):
        verify(tmp_path / "net.tflite")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        verify(tmp_path / "net.tflite")
