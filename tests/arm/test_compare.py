"""`openglm compare --cpu`: models and bundles by the instructions they take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openglm.arm.install import Emulation

Command = Callable[..., Any]


def test_by_instructions(command: Command, emulation: Emulation, layer: Path, int8_layer: Path) -> None:
    ran = command("compare", layer, int8_layer, "--cpu", "cortex-a76", "--shape", "rows=16", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert set(told) == {"cpu", "sides", "inputs", "shape", "engine"}
    assert (told["cpu"], told["inputs"], told["shape"]) == ("cortex-a76", 1, {"rows": 16})
    one, other = told["sides"]
    assert one["ratio"] == 1
    assert other["ratio"] == other["instructions"] / one["instructions"] < 0.7
    # A vector holds four floats, and a dot product of vectors makes 16 products.
    products = 16 * 256 * 128
    assert products / 4 <= one["floats"] < products / 3
    assert products / 16 <= other["dots"] < products / 12


def test_a_program_with_gates(command: Command, emulation: Emulation, cascade_bundle: Path) -> None:
    large, counts = cascade_bundle.with_name("large.onnx"), cascade_bundle.with_name("counts.json")
    ran = command("compare", large, cascade_bundle, "--cpu", "cortex-a53")
    assert ran.code == 0, ran.err
    assert "the mean of 8 inputs" in ran.out
    assert " ms" not in ran.out
    ran = command("compare", cascade_bundle, "--cpu", "cortex-a53", "--counts", counts)
    assert ran.code == 2
    assert "a program of several graphs" in ran.err
    assert not counts.exists()


def test_counts_for_fit(command: Command, emulation: Emulation, int8_layer: Path) -> None:
    counts = int8_layer.with_name("counts.json")
    ran = command("compare", int8_layer, "--cpu", "cortex-a53", "--shape", "rows=16", "--counts", counts)
    assert ran.code == 0, ran.err
    ran = command(
        *("fit", int8_layer, "-d", "cortex-a53-2gb", "--shape", "rows=16", "--counts", counts, "--json")
    )
    assert ran.code == 0, ran.err
    assert "counted on an emulated cortex-a53" in json.loads(ran.out)["predicted_by"]
    assert command("fit", int8_layer, "-d", "all", "--counts", counts).code == 2


def test_bad_input(command: Command, layer: Path, conv_file: Path) -> None:
    assert command("compare", layer, "--cpu", "cortex-a53").code == 2
    assert command("compare", layer, layer, layer).code == 2
    assert "Give --cpu" in command("compare", layer, layer, "--counts", layer.with_name("c.json")).err
    assert command("compare", layer, "--runtimes", "all", "--cpu", "cortex-a53").code == 2
    assert "no emulated processor" in command("compare", layer, layer, "--cpu", "z80").err
    ran = command("compare", layer, conv_file, "--cpu", "cortex-a53")
    assert "Compare models with the same inputs." in ran.err
