"""SavedModel folders: what is computed is what TensorFlow computes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from openglm.errors import InputError
from openglm.model.auto import AutoModel
from openglm.model.sources import onnx_file
from openglm.model.tflite import conversion


def test_a_saved_model_is_converted_once(
    tensorflow_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path / "cache"))
    folder = tensorflow_files / "vision"
    model = AutoModel.from_pretrained(folder)
    assert (model.name, model.source) == ("vision", str(folder))
    assert [str(spec) for spec in model.inputs] == ["picture: float32[batch, 16, 16, 3]"]
    assert {spec.name for spec in model.outputs} == {"logits", "mean"}
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)  # TensorFlow is not asked again
    again = AutoModel.from_pretrained(folder)
    assert [str(spec) for spec in again.inputs] == [str(spec) for spec in model.inputs]


def test_tensorflow_is_what_it_is_compared_with(tensorflow_files: Path, tmp_path: Path) -> None:
    truth = conversion.convert(tensorflow_files / "text", {"fp32": tmp_path / "net.tflite"}, tmp_path)
    model = AutoModel.from_pretrained(tmp_path / "net.tflite")
    onnx_file.write(model.graph, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert len(truth.inputs) == conversion.SAMPLES
    for given, answers in zip(truth.inputs, truth.answers, strict=True):
        (found,), (answer,) = session.run(None, given), answers.values()
        np.testing.assert_allclose(found, answer, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("writes", "has the operator WriteFile, which reaches out of a model"),
        ("several", "no signature 'serving_default', but several: one, two"),
        ("roots", "TensorFlow Lite has no operator for Cholesky"),
    ],
)
def test_refused(
    tensorflow_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        AutoModel.from_pretrained(tensorflow_files / name)
    assert list(tmp_path.iterdir()) == []


def test_broken(tensorflow_files: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tensorflow_files / "text", tmp_path / "text"))
    whole = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is not a whole SavedModel"):
        AutoModel.from_pretrained(folder)
    (folder / "saved_model.pb").write_bytes(whole)
    (weights,) = (folder / "variables").glob("variables.data-*")
    weights.unlink()
    with pytest.raises(InputError, match="TensorFlow cannot convert"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_files_of_keras(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not there"):
        AutoModel.from_pretrained(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(InputError, match=r"may hold code. .* model.export\(folder\)"):
        AutoModel.from_pretrained(tmp_path / name)


def test_written_as_text(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").touch()
    with pytest.raises(InputError, match="written as text"):
        AutoModel.from_pretrained(tmp_path)


def test_tensorflow_is_not_there(
    tensorflow_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path))
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"TensorFlow.* is not installed. .*openglm\[tensorflow\]"):
        AutoModel.from_pretrained(tensorflow_files / "vision")
