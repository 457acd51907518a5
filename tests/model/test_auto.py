"""`AutoModel.from_pretrained`: which source is asked, and what is said of those that none reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from openglm.errors import InputError
from openglm.model.auto import SUPPORTED, AutoModel, printable


@pytest.mark.parametrize("name", ["pytorch_model.bin", "net.gguf", "net.pt", "net.mnn"])
def test_formats_that_are_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\0" * 64)
    with pytest.raises(InputError) as caught:
        AutoModel.from_pretrained(path)
    assert caught.value.problem == f"The format of {path} is not supported."
    assert caught.value.advice == f"Supported are: {SUPPORTED}."


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not supported") as caught:
        AutoModel.from_pretrained(tmp_path)
    assert "transformers folder" in caught.value.advice


def test_misspelt_zoo_name() -> None:
    with pytest.raises(InputError, match="There is no model 'all-minilm-l6-v3'") as caught:
        AutoModel.from_pretrained("all-minilm-l6-v3")
    assert "all-minilm-l6-v2" in caught.value.advice


@pytest.mark.parametrize("name", ["models/net.gguf", "models/net.PT", "models/weights.bin"])
def test_a_missing_file_is_no_hub_id(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openglm.model.sources.hub.folder_of", lambda _: pytest.fail("the network was asked"))
    with pytest.raises(InputError, match="There is no model"):
        AutoModel.from_pretrained(name)


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pt2", "missing.tflite", "some/missing.onnx"])
def test_missing_file(name: str) -> None:
    with pytest.raises(InputError, match="There is no file"):
        AutoModel.from_pretrained(name)


def test_a_model_is_itself(conv_file: Path) -> None:
    model = AutoModel.from_pretrained(conv_file)
    assert AutoModel.from_pretrained(model) is model


def test_path_that_is_not_utf8(conv_file: Path, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff t.onnx"))
    path.write_bytes(conv_file.read_bytes())
    model = AutoModel.from_pretrained(path)
    assert model.name == "n? t"
    assert printable(model.source) == model.source
