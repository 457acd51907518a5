"""`openglm plan`: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import Ran
from openglm.bundle.store import read_manifest
from openglm.memory import bundled

Command = Callable[..., Ran]


def test_it_shows_figures_and_a_drawing(model: Path, command: Command) -> None:
    ran = command("plan", model)
    assert ran.code == 0
    assert "the least possible in this order" in ran.out
    assert "as TensorFlow Lite plans it" in ran.out
    assert "+--" in ran.out


def test_json(model: Path, command: Command) -> None:
    ran = command("plan", model, "--shape", "batch=4", "--align", "16", "--check", "--json")
    record = json.loads(ran.out)
    assert record["alignment"] == 16
    assert record["arena_bytes"] == record["lower_bound"] == 2 * 4 * 64 * 4
    assert record["difference"] < 1e-5
    assert {value for place in record["placements"] for value in place["values"]} == {"x", "h", "y"}


def test_it_writes_a_header_and_a_picture(model: Path, command: Command, tmp_path: Path) -> None:
    header, picture = tmp_path / "plan.h", tmp_path / "plan.svg"
    ran = command("plan", model, "--order", "best", "--header", header, "--picture", picture)
    assert ran.code == 0
    assert "#define SMALL_ARENA_BYTES" in header.read_text()
    svg = ElementTree.parse(picture).getroot()
    assert len(svg.findall(".//{*}g")) == len(json.loads(command("plan", model, "--json").out)["placements"])


def test_it_runs_inside_the_arena(conv_file: Path, command: Command) -> None:
    ran = command("plan", conv_file, "--check", "--double-buffer")
    assert ran.code == 0
    assert "Run inside the arena with guard bytes" in ran.out


def test_a_bundle_carries_its_plan(bundle: Path, command: Command) -> None:
    manifest = read_manifest(bundle)
    (arena,) = manifest.arenas
    assert manifest.plans == bundled.FILE
    assert manifest.plans in manifest.files
    planned = bundled.read(bundle / bundled.FILE)[arena.segment]
    assert (planned.arena_bytes, planned.optimal) == (arena.arena_bytes, arena.optimal)
    assert arena.lower_bound <= arena.arena_bytes <= arena.greedy_bytes
    shown = json.loads(command("plan", bundle, "--json").out)
    assert shown["arena_bytes"] == arena.arena_bytes
    assert command("plan", bundle, "--segment", "none").code == 2
    assert "in one static arena" in (bundle / "report.html").read_text(encoding="utf-8")


def test_a_zipped_bundle_runs_inside_its_arena(bundle: Path, command: Command, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", bundle))
    ran = command("plan", packed, "--check", "--json")
    assert ran.code == 0
    assert "difference" in json.loads(ran.out)


def test_a_tflite_file(tensorflow_files: Path, command: Command, tmp_path: Path) -> None:
    source = tensorflow_files / "vision_int8.tflite"
    ran = command("plan", source, "--tflite", tmp_path / "out.tflite")
    assert ran.code == 0
    assert "aligned to 16 bytes" in ran.out
    assert command("plan", tmp_path / "out.tflite").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--order", "worst"),
        ("--align", "3"),
        ("--arena-kb", "0"),
        ("--arena-kb", "0.3"),
        ("--time", "soon"),
        ("--shape", "rows=3"),
        ("--segment", "model"),
        ("--tflite", "out.tflite"),
        ("--picture", "plan.png"),
    ],
)
def test_bad_input(model: Path, command: Command, arguments: tuple[str, str]) -> None:
    ran = command("plan", model, *arguments)
    assert ran.code == 2
    assert not ran.out
    assert ran.err.startswith("Error: ")


def test_bad_input_of_a_tflite_file(tensorflow_files: Path, command: Command, tmp_path: Path) -> None:
    assert command("plan", tensorflow_files / "vision_int8.tflite", "--order", "best").code == 2
    broken = tmp_path / "broken.tflite"
    broken.write_bytes((tensorflow_files / "vision_int8.tflite").read_bytes()[:2000])
    assert command("plan", broken).code == 2
