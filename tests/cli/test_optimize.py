"""`openglm optimize`: exit codes, output, and that stopping it at any time leaves nothing half done."""

from __future__ import annotations

import json
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import openglm
from openglm.search import hunt, space

DEVICE = "cortex-a53-2gb"
KEYS = {
    "bundle", "model", "device", "fits", "stopped", "full", "elapsed_s", "spent",
    "limits", "advice", "chosen", "speedup", "size_bytes",
    "original_bytes", "quality", "data", "candidates",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two recipes are tried."""
    whole = space.schemes
    monkeypatch.setattr(space, "schemes", lambda statistics: dict(list(whole(statistics).items())[:1]))


@pytest.fixture
def optimize(command: Callable[..., Any], quick: None) -> Callable[..., Any]:
    def run(model: Path, output: Path, *more: object) -> Any:
        return command("optimize", model, "-d", DEVICE, "-o", output, "--samples", 4, "--threads", 1, *more)

    return run


def test_for_people(optimize: Callable[..., Any], conv_file: Path, tmp_path: Path) -> None:
    ran = optimize(conv_file, tmp_path / "with space")
    assert ran.code == 0, ran.err
    for text in ("conv fits cortex-a53-2gb", "Measured on this machine", "Chosen:", "Data: no data was given",
                 f"Bundle: {tmp_path / 'with space'}", "report.html"):  # fmt: skip
        assert text in ran.out
    assert "fuse:" in ran.err  # what was judged, as it was judged
    with openglm.load(tmp_path / "with space") as session:
        session.verify()
        assert session.manifest.command.startswith("openglm optimize ")
        assert "'" + str(tmp_path / "with space") + "'" in session.manifest.command


def test_json(optimize: Callable[..., Any], bert_folder: Path, tmp_path: Path) -> None:
    ran = optimize(bert_folder, tmp_path / "made.zip", "--json")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    record = json.loads(ran.out)
    assert set(record) == KEYS
    assert record["fits"] is True
    assert record["stopped"] is False
    assert record["candidates"][0]["code"] == "as it is"
    assert {"code", "outcome", "reason"} <= set(record["candidates"][0])
    assert zipfile.is_zipfile(tmp_path / "made.zip")
    assert openglm.load(tmp_path / "made.zip").run(text="a cat")["sentence_embedding"].shape == (1, 64)


def test_written_though_it_does_not_fit(
    optimize: Callable[..., Any], conv_file: Path, tmp_path: Path
) -> None:
    ran = optimize(conv_file, tmp_path / "made", "--size-mb", 0.0001)
    assert ran.code == 3
    assert "does not fit" in ran.out
    assert openglm.load(tmp_path / "made").verify() <= 0.01


def test_time_that_is_up(
    optimize: Callable[..., Any], conv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = optimize(conv_file, tmp_path / "made", "--time", "1s", "--json")
    assert ran.code == 0
    clock = iter([0.0] + [100.0] * 1000)
    monkeypatch.setattr(hunt.time, "monotonic", lambda: next(clock))
    ran = optimize(conv_file, tmp_path / "made", "--time", "1s", "--json", "--fresh")
    outcomes = [item["outcome"] for item in json.loads(ran.out)["candidates"]]
    assert outcomes == ["chosen", "not tried", "not tried"]
    assert openglm.load(tmp_path / "made").verify() <= 0.01


def test_again_replaces_the_earlier_bundle(
    optimize: Callable[..., Any], conv_file: Path, bundle: Path
) -> None:
    before = (bundle / "openglm.json").read_bytes()
    assert optimize(conv_file, bundle).code == 0
    assert (bundle / "openglm.json").read_bytes() != before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_folder_of_the_users_is_not_touched_and_nothing_is_searched(
    optimize: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    ran = optimize(tmp_path / "missing.onnx", tmp_path)
    assert ran.code == 5
    assert ran.err.splitlines() == [
        f"Error: {tmp_path} exists and is not a bundle.", "Give another output folder, or remove it."
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("text", ["", "m", "ten", "5d", "nan", "-1", "0s"])
def test_no_time(optimize: Callable[..., Any], conv_file: Path, tmp_path: Path, text: str) -> None:
    ran = optimize(conv_file, tmp_path / "made", f"--time={text}")
    assert ran.code == 2
    assert not list(tmp_path.iterdir())


SLOW = """
import sys, time
from openglm.search import bench, result, trial
judge = trial._judge
def slow(recipe, *given):
    found = judge(recipe, *given)
    print(len(recipe), flush=True)
    time.sleep(0.2)
    return found
trial._judge = slow
write = result.package
def package(*given):
    print("writing", flush=True)
    return write(*given)
result.package = package
signal = __import__("signal")
signal.signal(signal.SIGINT, signal.default_int_handler)
from openglm.cli import main
main()
"""


@pytest.fixture
def searching(process: Callable[..., Any], conv_file: Path) -> Callable[..., Any]:
    """A search in a process of its own, which tells each recipe that it has judged."""

    def start(output: Path, code: str = SLOW) -> Any:
        return process(
            "optimize", conv_file, "-d", DEVICE, "-o", output, "--samples", 4, "--threads", 1, code=code
        )

    return start


def test_ctrl_c_writes_the_best_so_far(searching: Callable[..., Any], tmp_path: Path) -> None:
    with searching(tmp_path / "made") as child:
        assert [child.stdout.readline() for _ in range(2)] == ["2\n", "1\n"]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "Stopped: this is the best so far." in out
    with openglm.load(tmp_path / "made") as session:
        assert session.verify() <= 0.01
        reasons = {item.reason for item in session.manifest.candidates if item.outcome == "not tried"}
        assert reasons == {"The search was stopped before it was judged."}
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_ctrl_c_before_anything_was_measured(searching: Callable[..., Any], tmp_path: Path) -> None:
    code = SLOW.replace(
        "signal = __import__",
        "def early(*given, **more):\n    print('feeding', flush=True)\n    time.sleep(60)\n"
        "bench.Feed = early\nsignal = __import__",
    )
    with searching(tmp_path / "deep" / "made", code) as child:
        assert child.stdout.readline() == "feeding\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.strip().endswith("Stopped. Nothing half written was left behind.")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_writes_nothing(searching: Callable[..., Any], tmp_path: Path) -> None:
    code = SLOW.replace(
        "    return write(",
        "    from openglm.search import package\n    package.render = lambda _: time.sleep(60)\n"
        "    return write(",
    )
    with searching(tmp_path / "made", code) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert "writing\n" in iter(child.stdout.readline, "")
        while not list(tmp_path.glob(".made-*/probes.npz")):
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Nothing half written" in err
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["study"]


def test_killed(searching: Callable[..., Any], tmp_path: Path) -> None:
    with searching(tmp_path / "made") as child:
        child.stdout.readline()
        child.kill()
        child.communicate(timeout=60)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["study"]


def test_a_recipe_that_does_not_pay(optimize: Callable[..., Any], conv_file: Path, tmp_path: Path) -> None:
    """Its output is the original, and the exit code says that it is not what was asked for."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[steps]]\npass = "fuse"\n')
    ran = optimize(conv_file, tmp_path / "made", "--recipe", recipe)
    assert ran.code == 6, ran.err
    told = "The recipe was not taken, and the bundle holds the original: fuse finds nothing to change"
    assert told in ran.err
    assert "Chosen: as it is" in ran.out


def test_labels_of_one_class(optimize: Callable[..., Any], conv_file: Path, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).standard_normal((16, 3, 16, 16), dtype=np.float32)
    np.savez(tmp_path / "data.npz", pixel_values=pictures, label=np.ones(16, np.int64))
    given = ("--data", tmp_path / "data.npz", "--metric", "accuracy")
    ran = optimize(conv_file, tmp_path / "made", *given)
    assert ran.code in (0, 3), ran.err
    assert "All labels of the data are of one class, so accuracy says little." in ran.out
