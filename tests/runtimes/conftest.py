"""Graphs that several engines convert."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.dequantize import Dequantize


@pytest.fixture
def bert_file(bert_bundle: Path, tmp_path: Path) -> Path:
    """An .onnx file: a text encoder of two layers in float32, its rows and length open."""
    (path,) = (file for file in bert_bundle.iterdir() if file.suffix == ".onnx")
    plain = tmp_path / "bert.onnx"
    onnx_file.write(Dequantize().apply(onnx_file.read(path), Context()).graph, plain)
    return plain
