"""`openglm bench latency`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_a_row_for_each_number_of_threads(command: Command, conv_file: Path) -> None:
    done = command(
        "bench",
        "latency",
        conv_file,
        "--runtime",
        "onnxruntime",
        "--threads",
        "1,2",
        "--rounds",
        "5",
        "--json",
    )
    assert done.code == 0, done.err
    rows = json.loads(done.out)["engines"]
    assert [row["host"]["threads"] for row in rows] == [1, 2]
    assert all(row["ok"] and row["timing"]["median_ms"] > 0 for row in rows)


def test_an_engine_that_fails_has_its_exit_code(command: Command, conv_file: Path) -> None:
    done = command(
        "bench", "latency", conv_file, "--runtime", "executorch", "--precision", "fp16", "--rounds", "5"
    )
    assert done.code == 4
    assert "ExecuTorch has no fp16." in done.out
    assert "onnxruntime fp32" in done.out


def test_threads_that_are_none(command: Command, conv_file: Path) -> None:
    done = command("bench", "latency", conv_file, "--threads", "many")
    assert done.code == 2
    assert "'many' are no numbers of threads." in done.err
