"""`openglm verify --cpu`: a bundle's recorded outputs on an emulated ARM processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.arm.install import Emulation

Command = Callable[..., Any]


def test_an_encoder(command: Command, emulation: Emulation, bert_bundle: Path) -> None:
    counts = bert_bundle.with_name("counts.json")
    told = json.loads(command("verify", bert_bundle, "--cpu", "cortex-a53", "--counts", counts, "--json").out)
    assert (told["ok"], told["cpu"], told["files"]) == (True, "cortex-a53", 6)
    assert 0 <= told["difference"] < 0.001
    assert 0 <= told["identical"] <= 1
    (counted,) = json.loads(counts.read_text(encoding="utf-8"))
    shape = ",".join(f"{name}={size}" for name, size in counted["shape"].items())
    model = next(bert_bundle.glob("*.onnx"))
    ran = command("fit", model, "-d", "cortex-a53-2gb", "--shape", shape, "--counts", counts)
    assert ran.code == 0, ran.err
    assert "counted on an emulated" in ran.out


def test_a_program_with_gates(command: Command, emulation: Emulation, cascade_bundle: Path) -> None:
    ran = command("verify", cascade_bundle, "--cpu", "cortex-a76")
    assert ran.code == 0
    assert "files as their hashes say, loaded, " in ran.out
    assert "Cortex-A76" in ran.out


def test_other_outputs_under_a_right_hash(
    command: Command, emulation: Emulation, doubled_bundle: Path
) -> None:
    ran = command("verify", doubled_bundle, "--cpu", "cortex-a53")
    assert ran.code == 4
    assert "outputs differ from the recorded ones" in ran.err


def test_bad_input(command: Command, bundle: Path) -> None:
    ran = command("verify", bundle, "--cpu", "cortex-a54")
    assert ran.code == 2
    assert "Did you mean cortex-a53" in ran.err
    ran = command("verify", bundle, "--cpu", "cortex-a53", "--runtime", "mnn")
    assert ran.code == 2
    assert "Leave out --runtime." in ran.err
    (bundle / "model.onnx").write_bytes(b"x")
    assert command("verify", bundle, "--cpu", "cortex-a53").code == 4
