"""`openglm compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_for_people(command: Command, conv_file: Path, conv_bundle: Path) -> None:
    ran = command("compare", conv_file, conv_bundle, "--rounds", 5)
    assert ran.code == 0, ran.err
    for text in ("size", "latency, median", "B is ", "Fidelity of B to A", "1 thread"):
        assert text in ran.out


def test_json(command: Command, bert_folder: Path, bert_bundle: Path) -> None:
    ran = command("compare", bert_folder, bert_bundle, "--rounds", 5, "--shape", "sequence=16", "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert set(record) == {"a", "b", "speedup", "fidelity", "samples", "data", "shape", "host"}
    assert set(record["a"]) == {"name", "size_bytes", "timing", "load_ms", "peak_memory_mb"}
    assert record["shape"] == {"batch": 1, "sequence": 16}


def test_other_inputs(command: Command, conv_file: Path, bert_bundle: Path) -> None:
    ran = command("compare", conv_file, bert_bundle)
    assert ran.code == 2
    assert "Compare models with the same inputs." in ran.err


def test_broken_bundle(command: Command, conv_file: Path, bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"x")
    assert command("compare", conv_file, bundle).code == 4
