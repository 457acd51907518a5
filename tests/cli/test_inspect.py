"""`openglm inspect` and `openglm models`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from openglm import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["openglm", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("option", [(), ("--all-layers",), ("--layers", "1")])
def test_a_table_for_people(
    model: Path,
    option: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "inspect", model, "--shape", "batch=2", *option) == 0
    text = capsys.readouterr().out
    assert "4,096" in text  # parameters
    assert "8,192" in text  # multiply-accumulates
    assert "batch = 2" in text
    assert "MatMul" in text


def test_json(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "inspect", model, "--shape", "batch=2", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["parameters"] == 4096
    assert record["macs"] == 2 * 4096
    assert record["weight_bytes"] == 4 * 4096
    assert record["peak_activation_bytes"] == 2 * 2 * 64 * 4
    assert record["inputs"] == [{"name": "x", "dtype": "float", "shape": [2, 64]}]
    assert [layer["op_type"] for layer in record["layers"]] == ["MatMul", "Relu"]
    assert record["unknown_shapes"] == []


@pytest.mark.parametrize(
    "arguments", [("--shape", "batch=many"), ("--shape", "nothing=1"), ("--layers", "0")]
)
def test_bad_input(
    model: Path,
    arguments: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "inspect", model, *arguments) == 2
    assert "rror" in capsys.readouterr().err


def test_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "models", "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert "all-minilm-l6-v2" in {entry["name"] for entry in entries}
    assert run(monkeypatch, "models") == 0
    assert "all-minilm-l6-v2" in capsys.readouterr().out
