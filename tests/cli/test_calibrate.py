"""`openglm calibrate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.bundle.store import read_manifest

Command = Callable[..., Any]


def test_for_people(command: Command, cascade_bundle: Path, tmp_path: Path) -> None:
    data = cascade_bundle.parent / "shifted.npz"
    ran = command("calibrate", cascade_bundle, "--data", data, "-o", tmp_path / "new")
    assert ran.code == 0, ran.err
    for text in ("thresholds before", "work, of the whole model's", "Inputs leave at exit 1", "Written: "):
        assert text in ran.out
    (record,) = read_manifest(tmp_path / "new").recalibrated
    assert record.command.startswith("openglm calibrate ")
    assert command("verify", tmp_path / "new").code == 0
    assert "Thresholds were set again" in command("explain", tmp_path / "new").out


def test_json(command: Command, cascade_bundle: Path, tmp_path: Path) -> None:
    data = cascade_bundle.parent / "shifted.npz"
    ran = command("calibrate", cascade_bundle, "--data", data, "-o", tmp_path / "new", "--json")
    found = json.loads(ran.out)
    assert set(found) == {"bundle", "before", "after", "notes"}
    assert found["after"]["drop"] < found["before"]["drop"]


def test_without_gates(command: Command, conv_bundle: Path, cascade_bundle: Path, tmp_path: Path) -> None:
    data = cascade_bundle.parent / "today.npz"
    ran = command("calibrate", conv_bundle, "--data", data, "-o", tmp_path / "new")
    assert ran.code == 2
    assert not (tmp_path / "new").exists()


def test_no_such_data(command: Command, cascade_bundle: Path, tmp_path: Path) -> None:
    ran = command("calibrate", cascade_bundle, "--data", tmp_path / "none.npz", "-o", tmp_path / "new")
    assert ran.code == 2
    assert "none.npz" in ran.err


def test_how_far_each_went(command: Command, cascade_bundle: Path) -> None:
    ran = command("run", cascade_bundle, "--arrays", cascade_bundle.parent / "few.npz")
    assert ran.code == 0, ran.err
    assert "how far each went" in ran.out
    assert "  1: small" in ran.out
