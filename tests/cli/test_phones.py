"""`fit --sustain`, `fit --device all` and `language-models`: what they print, and exit codes."""

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


def test_a_lasting_load(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("fit", model, "-d", "snapdragon-8-gen-3", "--sustain", "30m")
    assert run(monkeypatch, *asked, "--rate", "10/s") == 0
    text = capsys.readouterr().out
    for word in ("it can be held", "throttles", "can hold", "hours on a charge", "rate"):
        assert word in text
    assert run(monkeypatch, *asked, "--rate", "99999999/s") == 3
    assert "it cannot be held" in capsys.readouterr().out
    assert run(monkeypatch, *asked, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sustained"]["duration_s"] == 1800
    assert record["sustained"]["asked_per_s"] is None
    assert len(record["sustained"]["course"]) > 2


def test_a_rate_that_heat_forbids_is_a_reason(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("fit", model, "-d", "snapdragon-8-gen-3", "--shape", "batch=100000", "--json")
    run(monkeypatch, *asked, "--sustain", "30m")
    cool_ms = json.loads(capsys.readouterr().out)["sustained"]["start_ms"]
    assert run(monkeypatch, *asked, "--sustain", "30m", "--rate", f"{950 / cool_ms:.6f}/s") == 3
    record = json.loads(capsys.readouterr().out)
    limit = record["limits"][-1]
    assert (limit["name"], limit["ok"]) == ("rate", False)
    assert "heat" in limit["bound"]
    assert record["action"] == "optimize"
    assert "times as fast" in record["advice"]
    # Before the phone is hot it can.
    assert run(monkeypatch, *asked, "--sustain", "20s", "--rate", f"{950 / cool_ms:.6f}/s") == 0


def test_every_device(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    market, page = tmp_path / "market.csv", tmp_path / "phones.html"
    market.write_text("device,share\nflagship,40%\ncortex-a53-2gb,50%\nother,10%\n", encoding="utf-8")
    asked = ("fit", model, "-d", "all", "--market", market, "--memory-mb", "1000")
    assert run(monkeypatch, *asked, "-o", page) == 0
    told = capsys.readouterr()
    assert "runs on 90% of these devices" in told.out
    assert "cortex-a53-2gb" in told.out
    assert "tensor-g3" in page.read_text(encoding="utf-8").lower().replace(" ", "-")
    assert run(monkeypatch, *asked, "--json") == 0
    assert json.loads(capsys.readouterr().out)["share"] == pytest.approx(0.9)
    assert run(monkeypatch, "fit", model, "-d", "all", "--size-mb", "0.001", "--sustain", "5m") == 3
    assert "fits 0 of" in capsys.readouterr().out


def test_language_models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "language-models") == 0
    assert "snapdragon-8-gen-3" in capsys.readouterr().out
    assert run(monkeypatch, "language-models", "-d", "apple-a17-pro") == 0
    assert "3B" in capsys.readouterr().out
    assert run(monkeypatch, "language-models", "7B", "-d", "snapdragon-8-gen-3") == 0
    assert "7B at 4 bits fits snapdragon-8-gen-3" in capsys.readouterr().out
    assert run(monkeypatch, "language-models", "7B", "-d", "cortex-a53-2gb") == 3
    capsys.readouterr()
    assert run(monkeypatch, "language-models", "7B", "--unit", "npu") == 0
    assert "cortex-a53" not in capsys.readouterr().out
    assert run(monkeypatch, "language-models", "7B", "-d", "snapdragon-8-gen-3", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert {item["cache_bits"] for item in record["contexts"]} == {8, 16}


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "-d", "cortex-a53-2gb", "--sustain", "a while"),
        ("fit", "-d", "cortex-a53-2gb", "--rate", "10"),
        ("fit", "-d", "cortex-a53-2gb", "--market", "market.csv"),
        ("fit", "-d", "cortex-a53-2gb", "-o", "phones.html"),
        ("fit", "-d", "all", "--market", "none.csv"),
        ("fit", "-d", "all", "--threads", "0"),
        ("language-models", "9B"),
        ("language-models", "7B", "--bits", "3"),
        ("language-models", "7B", "--cache-bits", "2"),
        ("language-models", "7B", "--unit", "quantum"),
        ("language-models", "7B", "--unit", "npu", "-d", "cortex-a53-2gb"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *rest = arguments
    given = [command, model, *rest] if command == "fit" else list(arguments)
    assert run(monkeypatch, *given) == 2
    assert not capsys.readouterr().out
