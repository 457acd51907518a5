"""The commands `doctor`, `export` and `compare --runtimes`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_doctor_lists_every_engine(command: Command) -> None:
    shown = command("doctor")
    assert shown.code == 0
    assert "ONNX Runtime" in shown.out
    told = json.loads(command("doctor", "--json").out)["engines"]
    for item in told:
        assert {"name", "available", "version", "processors", "install"} <= set(item)
        assert item["available"] == (item["version"] is not None)
    assert {"mnn", "openvino", "onnxruntime"} <= {item["name"] for item in told}


def test_doctor_names_the_command_for_what_is_missing(command: Command, monkeypatch: Any) -> None:
    from openglm.runtimes import engine

    known = engine._version
    monkeypatch.setattr(engine, "_version", lambda name: None if name == "MNN" else known(name))
    assert "pipinstall'openglm[mnn]'" in "".join(command("doctor").out.split())
    (mnn,) = (
        item for item in json.loads(command("doctor", "--json").out)["engines"] if item["name"] == "mnn"
    )
    assert (mnn["available"], mnn["processors"]) == (False, [])


def test_a_bundle_on_another_engine(command: Command, text_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "more"
    done = command("export", text_bundle, "--runtime", "mnn", "-o", target, "--samples", 4, "--rounds", 5)
    assert done.code == 0, done.err
    assert "mnn" in done.out
    assert command("verify", target).code == 0
    assert "mnn" in command("compare", target, "--runtimes", "all", "--rounds", 5).out
    answer = command("run", target, "--runtime", "mnn", "--text", "A cat sat on the mat.")
    assert answer.code == 0, answer.err
    assert "float32" in answer.out
    refused = command("run", target, "--runtime", "openvino", "--text", "A cat.")
    assert refused.code == 2
    assert "openglm export" in refused.err


def test_compare_takes_a_second_model_or_engines(command: Command, bundle: Path) -> None:
    for given in (
        [bundle],
        [bundle, bundle, "--runtimes", "all"],
        [bundle, "--runtimes", "all", "--shape", "n=1"],
    ):
        assert command("compare", *given).code == 2


def test_optimize_exports_what_its_recipe_names(command: Command, model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[steps]]\npass = "fp16"\n\n[targets]\nruntimes = ["mnn"]\nprecision = "fp32"\n')
    target = tmp_path / "made"
    given = ("optimize", model, "--device", "mid-range-a76", "-o", target, "--json")
    done = command(*given, "--recipe", recipe)
    assert [item["engine"] for item in json.loads(done.out)["engines"]] == ["onnxruntime", "mnn"], done.err
    assert command("verify", target, "--runtime", "mnn").code == 0
    assert command(*given, "--runtime", "mnm").code == 2
