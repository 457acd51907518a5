"""`openglm fit`: what it prints, and the exit codes that scripts rely on."""

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


def test_it_fits(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "fit", model, "--device", "cortex-a53-2gb") == 0
    text = capsys.readouterr().out
    assert "small fits cortex-a53-2gb" in text
    for word in ("latency", "memory", "size", "energy", "load", "predicted"):
        assert word in text


def test_it_does_not_fit(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", "--size-mb", "0.005") == 3
    text = capsys.readouterr().out
    assert "does not fit" in text
    assert "✗" in text


def test_json(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(
        monkeypatch,
        "fit",
        model,
        "-d",
        "cortex-a53-2gb",
        "--latency-ms",
        "1e-6",
        "--shape",
        "batch=7",
        "--json",
    )
    assert code == 3
    record = json.loads(capsys.readouterr().out)
    assert (record["model"], record["device"], record["fits"]) == ("small", "cortex-a53-2gb", False)
    assert record["dims"] == {"batch": 7}
    assert record["limits"][0]["budget"] == 1e-6
    assert record["limits"][0]["ok"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ("--latency-ms", "0"),
        ("--memory-mb", "-5"),
        ("--energy-mj", "nan"),
        ("--shape", "batch"),
        ("--shape", "rows=3"),
        ("--threads", "0"),
        ("--unit", "quantum"),
        ("--unit", "npu"),
    ],
)
def test_bad_input(
    model: Path,
    arguments: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", *arguments) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.startswith("Error: ")


def test_an_unknown_device(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fit", model, "-d", "cortex-a53") == 2
    assert "cortex-a53-2gb" in capsys.readouterr().err


def test_the_interval_and_a_budget_inside_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", "--json")
    low, high = json.loads(capsys.readouterr().out)["latency_interval"]
    run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", "--latency-ms", (low + high) / 2)
    text = " ".join(capsys.readouterr().out.split())
    assert "90 % between" in text
    assert "the budget lies between" in text


def test_own_measurements_that_are_no_csv(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "phone.csv"
    bad.write_text("model,latency_ms\nx,quick\n")
    assert run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", "--measured", bad) == 2
    assert "Line 2" in capsys.readouterr().err
    bad.write_text(f"model,latency_ms\n{model},12.5\n")
    assert run(monkeypatch, "fit", model, "-d", "cortex-a53-2gb", "--measured", bad) == 0
    assert "your own measurements (models: 1)" in " ".join(capsys.readouterr().out.split())


def test_own_measurements_are_of_one_device(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "fit", model, "-d", "all", "--measured", tmp_path / "phone.csv") == 2
    assert run(monkeypatch, "fit", model, "-d", "all", "--runtime", "qn") == 2
    assert "no runtime" in " ".join(capsys.readouterr().err.split())
