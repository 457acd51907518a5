"""`openglm convert`, and the commands that take what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_convert_and_use(tensorflow_files: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    target = tmp_path / "small.tflite"
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", picture=rng.standard_normal((8, 16, 16, 3)).astype(np.float32))
    settings = ("--precision", "int8", "--data", tmp_path / "data.npz", "--rounds", 5, "--json")
    ran = command("convert", tensorflow_files / "vision", "-o", target, *settings)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["size_bytes"] == target.stat().st_size < 0.6 * found["float_bytes"]
    assert found["against_tensorflow"]["difference"] < 1e-4
    assert 1e-5 < found["against_fp32"]["difference"] < 0.1
    assert found["against_fp32"]["cosine"] > 0.999
    assert found["samples"] == 4

    inspected = json.loads(command("inspect", target, "--json").out)
    assert inspected["inputs"] == [{"name": "picture", "dtype": "float", "shape": [1, 16, 16, 3]}]
    assert command("fit", target, "--device", "cortex-a53-2gb").code == 0
    ran = command("run", target, "--arrays", tmp_path / "data.npz", "--save", tmp_path / "out.npz")
    assert ran.code == 0, ran.err
    assert "logits float32[8, 4]" in " ".join(ran.out.split())
    assert np.load(tmp_path / "out.npz")["mean"].shape[0] == 8
    ran = command("verify", target)
    assert (ran.code, "the same twice" in " ".join(ran.out.split())) == (0, True), ran.err
    assert command("run", target, "--text", "A cat.").code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere", "-o", "a.tflite"), "is no SavedModel folder"),
        (("net.keras", "-o", "a.tflite"), "is not there"),
        (("{}", "-o", "a.onnx"), "no name of a .tflite file"),
        (("{}", "-o", "a.tflite", "--precision", "int3"), "no precision 'int3'"),
    ],
)
def test_refused(
    tensorflow_files: Path, tmp_path: Path, command: Callable[..., Any], arguments: tuple[str, ...], told: str
) -> None:
    given = [argument.format(tensorflow_files / "vision") for argument in arguments]
    ran = command("convert", *given)
    assert ran.code == 2
    assert told in ran.err
    assert list(tmp_path.iterdir()) == []


def test_verify_tells_of_broken_files(tmp_path: Path, command: Callable[..., Any]) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"A text, renamed.")
    for name in ("verify", "inspect"):
        ran = command(name, path)
        assert (ran.code, "is no .tflite file" in ran.err) == (2, True)
