"""`openglm verify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_whole(command: Command, bert_bundle: Path) -> None:
    ran = command("verify", bert_bundle)
    assert ran.code == 0
    assert "6 files as their hashes say, loaded" in ran.out


def test_json_of_a_zip(command: Command, bert_bundle: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "b"), "zip", bert_bundle)
    record = json.loads(command("verify", path, "--json").out)
    assert record["bundle"] == path
    assert (record["ok"], record["files"]) == (True, 6)
    assert 0 <= record["difference"] <= 0.01


def test_other_outputs_under_a_right_hash(command: Command, doubled_bundle: Path) -> None:
    ran = command("verify", doubled_bundle)
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
