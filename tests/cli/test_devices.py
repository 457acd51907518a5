"""`openglm devices` and `openglm devices show`, as a user and as a program meets them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openglm import cli
from openglm.cli import console
from openglm.device import host
from openglm.device.profile import Device, dumps, figures, load, names

SHIPPED = [name for name in names() if name != "host"]


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A host that is never measured, and a note of every time it was asked for."""
    asked: list[bool] = []

    def measure() -> Device:
        asked.append(True)
        return load("raspberry-pi-5").model_copy(update={"name": "host", "tier": "host"})

    monkeypatch.setattr(host, "measure", measure)
    return asked


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["devices", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def leave(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code with which the command leaves."""
    monkeypatch.setattr(sys, "argv", ["openglm", "devices", *arguments])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return leaving.value.code


@pytest.mark.parametrize("width", [80, 120])
def test_list_shows_every_name_whole_and_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out(), "_width", width)
    lines = run().splitlines()
    first_words = [line.split()[0] for line in lines if line.strip()]
    assert all(name in first_words for name in names())
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "devices show NAME" in text
    assert "45.0 int8" in text
    assert "5.55 fp16" in text
    assert ("Xiaomi 14" in text) == ("17.8" in text) == (width == 120)


def test_list_does_not_measure_the_host(no_measuring: list[bool]) -> None:
    run()
    run("--json")
    assert no_measuring == []


def test_list_as_json() -> None:
    devices = {device["name"]: device for device in json.loads(run("--json"))}
    assert sorted(devices) == names()
    pi = devices["raspberry-pi-5"]
    assert pi["battery_wh"] is None
    assert pi["ram_gb"] == 8
    assert pi["app_memory_mb"] == load("raspberry-pi-5").app_memory_mb
    assert pi["units"] == [{"name": "cpu", "kind": "cpu", "peak_gops": load("raspberry-pi-5").cpu.peak_gops}]


@pytest.mark.parametrize("name", SHIPPED)
def test_show_prints_every_figure_with_its_source(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out(), "_width", 2000)  # so that no source is broken into lines
    text = run("show", name)
    device = load(name)
    by_convention = {f"units.{unit.name}.cores" for unit in device.units if unit.kind != "cpu"}
    for path in figures(device) - by_convention:
        assert device.sources[path] in text, path
    assert device.title in text
    assert f"{device.memory.bandwidth_gb_s:g}   GB/s" in text


@pytest.mark.parametrize("width", [80, 120])
def test_show_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out(), "_width", width)
    assert max(map(len, run("show", "desktop-gpu").splitlines())) <= width


def test_show_prints_brackets_in_a_source_as_they_are(tmp_path: Path) -> None:
    device = load("cortex-a53-2gb")
    sources = device.sources | {"idle_power_w": "measured [bold]by me[/bold]"}
    file = tmp_path / "mine.toml"
    file.write_text(dumps(device.model_copy(update={"sources": sources})), encoding="utf-8")
    assert "[bold]by me[/bold]" in run("show", str(file))


@pytest.mark.parametrize("name", [*SHIPPED, "host"])
def test_show_as_json_and_toml_give_the_same_device_back(name: str, tmp_path: Path) -> None:
    device = load(name)
    assert Device.model_validate(json.loads(run("show", name, "--json"))) == device
    text = run("show", name, "--toml")
    assert Device.model_validate(tomllib.loads(text)) == device
    file = tmp_path / "mine.toml"
    file.write_text(text.replace(f'name = "{device.name}"', 'name = "my-phone"', 1), encoding="utf-8")
    assert "my-phone" in run("show", str(file))


def test_show_host_measures(no_measuring: list[bool]) -> None:
    assert "host" in run("show", "host")
    assert no_measuring


def test_misspelt_name_leaves_with_2_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(monkeypatch, "show", "kirin-9000") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "kirin-9000s" in printed.err
    assert "Traceback" not in printed.err


def test_broken_file_leaves_with_2_and_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("name = ", encoding="utf-8")
    assert leave(monkeypatch, "show", str(file)) == 2
    assert "mine.toml" in capsys.readouterr().err


def test_wrong_use_leaves_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leave(monkeypatch, "show") == 2
    assert leave(monkeypatch, "shw") == 2
    assert leave(monkeypatch, "show", "host", "--json", "--toml") == 2


def test_help_has_examples_and_loads_nothing_heavy() -> None:
    assert "openglm devices show host --json" in run("show", "--help")
    code = "import sys, openglm.cli.devices; print({'pydantic', 'rich', 'numpy', 'onnx'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_the_documentation_lists_the_devices_as_they_are() -> None:
    script = Path(__file__).parents[2] / "docs" / "generate_devices.py"
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
