"""`openglm run`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openglm
from openglm.passes.fuse import Fuse

Command = Callable[..., Any]


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.savez(tmp_path / "in.npz", pixel_values=np.ones((2, 3, 16, 16), np.float32))
    return tmp_path / "in.npz"


def test_texts(command: Command, bert_bundle: Path) -> None:
    ran = command("run", bert_bundle, "--text", "the cat sat", "--text", "[bold]a dog[/bold]")
    assert ran.code == 0
    assert "sentence_embedding float32[2, 64]" in ran.out
    assert "'[bold]a dog[/bold]': [" in ran.out
    assert "similarity (cosine)" in ran.out


def test_pairs(command: Command, bert_bundle: Path) -> None:
    assert command("run", bert_bundle, "--text", "a", "--pair", "b").code == 0
    ran = command("run", bert_bundle, "--text", "a", "--pair", "b", "--pair", "c")
    assert ran.code == 2
    assert "1 texts and 2 pairs" in ran.err


def test_arrays_json_and_save(command: Command, conv_bundle: Path, arrays: Path, tmp_path: Path) -> None:
    ran = command(
        "run", conv_bundle, "--arrays", arrays, "--json", "--save", tmp_path / "out.npz", "--threads", 1
    )
    assert ran.code == 0
    logits = np.array(json.loads(ran.out)["logits"])
    assert logits.shape == (2, 4)
    with np.load(tmp_path / "out.npz") as saved:
        np.testing.assert_allclose(saved["logits"], logits, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.npz"]


def test_numbers_that_json_does_not_have(command: Command, conv_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", pixel_values=np.full((1, 3, 16, 16), np.nan, np.float32))
    ran = command("run", conv_bundle, "--arrays", tmp_path / "in.npz", "--json")
    assert json.loads(ran.out, parse_constant=pytest.fail)["logits"] == [[None] * 4]


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("--text", "a", "--image", "b"),
        ("--text", "a", "--arrays", "in.npz"),
        ("--image", "b", "--pair", "c"),
    ],
)
def test_nothing_or_too_much(command: Command, bert_bundle: Path, given: tuple[str, ...]) -> None:
    ran = command("run", bert_bundle, *given)
    assert ran.code == 2
    assert ran.err.startswith("Error: ")


@pytest.mark.parametrize("place", ["missing/out.npz", "in.npz/out.npz", "."])
def test_save_that_cannot_be(
    command: Command, conv_bundle: Path, arrays: Path, tmp_path: Path, place: str
) -> None:
    ran = command("run", conv_bundle, "--arrays", arrays, "--save", tmp_path / place)
    assert ran.code == 5
    assert "cannot be written" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["in.npz"]


def test_text_for_a_model_of_arrays(command: Command, conv_bundle: Path) -> None:
    ran = command("run", conv_bundle, "--text", "a")
    assert ran.code == 2
    assert "takes arrays only" in ran.err


def test_threads(command: Command, bert_bundle: Path) -> None:
    assert command("run", bert_bundle, "--text", "a", "--threads", 0).code == 2


def test_bytes_that_are_no_text(finished: Command, bert_bundle: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/b\xff \xfe"
    shutil.copytree(bert_bundle, os.fsdecode(folder))
    ran = finished("run", folder, "--text", b"caf\xe9 cat")
    assert ran.code == 0, ran.err
    ran = finished("verify", folder, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["ok"] is True
    ran = finished("verify", folder + b"x")
    assert ran.code == 2
    assert "There is no bundle at" in ran.err
    assert "Traceback" not in ran.err


def test_optimize_with_such_a_path(finished: Command, conv_file: Path, tmp_path: Path) -> None:
    source, target = (os.fsencode(tmp_path) + name for name in (b"/n\xff.onnx", b"/made\xfe"))
    Path(os.fsdecode(source)).write_bytes(conv_file.read_bytes())
    ran = finished("optimize", source, "-d", "cortex-a53-2gb", "-o", target, "--samples", 2, "--threads", 1)
    assert ran.code == 0, ran.err
    assert finished("explain", target).code == 0


def test_a_class_has_its_name(
    command: Command, write_classifier: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path / "model", layers=1, classes=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "dull", "1": "moving"}}))
    result = openglm.optimize(folder, "cortex-a53-2gb", recipe=[Fuse()], threads=1, evaluation_samples=4)
    result.best.save(tmp_path / "bundle")
    ran = command("run", tmp_path / "bundle", "--text", "the cat")
    assert ran.code == 0, ran.err
    with openglm.load(tmp_path / "bundle") as session:
        assert session.manifest.classes == ("dull", "moving")
        number = int(session.run(text="the cat")["logits"].argmax())
    assert f"class {('dull', 'moving')[number]} with probability" in ran.out
