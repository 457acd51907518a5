"""`openglm doctor --install arm-emulation`, and what `openglm doctor` tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openglm.arm import install
from openglm.arm.cpus import CPUS
from openglm.arm.install import Emulation

Command = Callable[..., Any]
INSTALL = ("doctor", "--install", "arm-emulation")


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache without ARM emulation."""
    monkeypatch.setenv("OPENGLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_second_call_leaves_it(command: Command, emulation: Emulation) -> None:
    record = emulation.folder / "emulation.json"
    before = record.stat().st_mtime_ns
    told = json.loads(command(*INSTALL, "--json").out)
    assert told["new"] is False
    assert record.stat().st_mtime_ns == before
    assert "was set up before" in command(*INSTALL).out


def test_doctor_tells_of_it(command: Command, emulation: Emulation) -> None:
    told = json.loads(command("doctor", "--json").out)["arm_emulation"]
    assert told["available"] is True
    assert told["cpus"] == list(CPUS)
    assert told["packages"] == emulation.packages
    assert told["uncounted"] is None
    assert f"ARM emulation: ONNX Runtime {emulation.packages['onnxruntime']} on cortex-a53" in (
        " ".join(command("doctor").out.split())
    )


def test_doctor_names_the_command_where_it_is_missing(command: Command, own_cache: Path) -> None:
    told = json.loads(command("doctor", "--json").out)["arm_emulation"]
    assert told == {"available": False, "cpus": list(CPUS), "install": install.COMMAND}
    assert f"– ARM emulation: {install.COMMAND}" in command("doctor").out


def test_a_machine_without_apt(
    command: Command, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = command(*INSTALL)
    assert ran.code == 2
    assert "made of Debian packages, and apt-get is not on this machine." in ran.err
    assert [path.suffix for path in own_cache.iterdir()] in ([], [".lock"])


def test_apt_without_sources_leaves_nothing(
    command: Command, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "apt.conf").write_text('Dir::Etc::sourcelist "none"; Dir::Etc::sourceparts "none";')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    ran = command(*INSTALL)
    assert ran.code == 2
    assert "Check that its sources can be reached" in ran.err
    assert [path.suffix for path in own_cache.iterdir()] in ([], [".lock"])


@pytest.mark.parametrize("change", ["of another engine", "cut short", "its program gone"])
def test_what_is_not_whole_does_not_count(
    emulation: Emulation, own_cache: Path, change: str, command: Command, bundle: Path
) -> None:
    (own_cache / install.NAME).mkdir(parents=True)
    for path in emulation.folder.iterdir():
        if path.name != "emulation.json":
            (own_cache / install.NAME / path.name).symlink_to(path)
    text = (emulation.folder / "emulation.json").read_text()
    record = own_cache / install.NAME / "emulation.json"
    record.write_text(text)
    assert install.installed() is not None
    if change == "of another engine":
        text = text.replace(f'"onnxruntime": "{emulation.packages["onnxruntime"]}"', '"onnxruntime": "1.0.0"')
        assert '"1.0.0"' in text
    elif change == "cut short":
        text = text[: len(text) // 2]
    else:
        (own_cache / install.NAME / "root").unlink()
    record.write_text(text)
    assert install.installed() is None
    ran = command("verify", bundle, "--cpu", "cortex-a53")
    assert ran.code == 2
    assert install.COMMAND in ran.err


def test_nothing_else_is_installed(command: Command) -> None:
    ran = command("doctor", "--install", "phone")
    assert ran.code == 2
    assert "arm-emulation" in ran.err
