"""`openglm verify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from openglm.bundle.manifest import FILE
from openglm.hashing import sha256

Command = Callable[..., Any]


def test_whole(command: Command, bert_bundle: Path) -> None:
    ran = command("verify", bert_bundle)
    assert ran.code == 0
    assert "5 files as their hashes say, loaded" in ran.out


def test_json_of_a_zip(command: Command, bert_bundle: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "b"), "zip", bert_bundle)
    record = json.loads(command("verify", path, "--json").out)
    assert record["bundle"] == path
    assert (record["ok"], record["files"]) == (True, 5)
    assert 0 <= record["difference"] <= 0.01


def test_other_outputs_under_a_right_hash(command: Command, bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array * 2, array.dtype), tensor.name))
    onnx.save(model, bundle / "model.onnx")
    manifest = json.loads((bundle / FILE).read_text())
    file = {"sha256": sha256(bundle / "model.onnx"), "bytes": (bundle / "model.onnx").stat().st_size}
    manifest["files"]["model.onnx"] = file
    (bundle / FILE).write_text(json.dumps(manifest))
    ran = command("verify", bundle)
    assert ran.code == 4
    assert "outputs differ from the recorded ones" in ran.err


def test_a_changed_byte(command: Command, bundle: Path) -> None:
    (bundle / "report.html").write_text("other")
    ran = command("verify", bundle, "--json")
    assert ran.code == 4
    assert ran.out == ""
    assert "report.html" in ran.err


def test_no_bundle(command: Command, tmp_path: Path) -> None:
    assert command("verify", tmp_path).code == 2
    assert command("verify", tmp_path / "none").code == 2
