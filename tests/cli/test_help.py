"""Help, usage errors, and how commands end when their output does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]
COMMANDS = (
    "devices",
    "models",
    "inspect",
    "fit",
    "optimize",
    "run",
    "verify",
    "compare",
    "explain",
    "finetune",
)


def test_overview(command: Command) -> None:
    ran = command("--help")
    assert ran.code == 0
    assert "I want to ..." in ran.out
    assert "130 stopped" in ran.out
    for name in COMMANDS:
        assert f"openglm {name}" in ran.out or name == "models"
    assert command("-h").out == ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command(command: Command, name: str) -> None:
    ran = command(name, "--help")
    assert ran.code == 0
    assert f"Usage: openglm {name}" in ran.out
    assert "--json" in ran.out


def test_version(command: Command) -> None:
    assert command("--version").out.startswith("openglm ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimise",),
        ("optimize",),
        ("fit", "x"),
        ("run",),
        ("verify", "a", "b"),
        ("fit", "--nonsense"),
        ("optimize", "x", "-d", "host", "-o", "o", "--threads", "0"),
        ("optimize", "x", "-d", "host", "-o", "o", "--samples", "0"),
        ("compare", "a", "b", "--rounds", "1"),
        ("run", "b", "--threads", "zero"),
    ],
)
def test_usage(command: Command, arguments: tuple[str, ...]) -> None:
    ran = command(*arguments)
    assert ran.code == 2
    assert "Traceback" not in ran.err


def shell(tail: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = (
        f'"{sys.executable}" -c "from openglm.cli import main; main()" "$@" {tail}; exit ${{PIPESTATUS[0]}}'
    )
    return subprocess.run(
        ["bash", "-c", line, "bash", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [("devices",), ("devices", "--json"), ("models", "--json")])
def test_a_pipe_that_closes(arguments: tuple[str, ...]) -> None:
    for reader in ("head -1", "true"):
        ran = shell(f"| {reader}", *arguments)
        assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's own")
@pytest.mark.parametrize("arguments", [("devices",), ("devices", "--json")])
def test_output_that_does_not_fit_on_the_disk(arguments: tuple[str, ...]) -> None:
    ran = shell("> /dev/full", *arguments)
    assert ran.returncode == 5
    assert ran.stderr.startswith("Error: The output cannot be used (No space left on device).")
    assert "Traceback" not in ran.stderr


def test_no_output_at_all() -> None:
    assert shell(">&-", "devices").returncode == 0
