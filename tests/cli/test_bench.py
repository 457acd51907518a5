"""`openglm bench glue`, from files to the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from openglm.glue import references
from openglm.runtimes import measure

Command = Callable[..., Any]
QUICK = ("--alone", "--rounds", 5)


@pytest.fixture(scope="module")
def tuned(once: Callable[..., Path], bert_folder: Path, glue_folder: Path) -> Path:
    """A folder of two fine-tuned models, one for each task."""

    def make(path: Path) -> None:
        from openglm.glue import finetuning, read
        from openglm.glue.tasks import TASKS

        plan = finetuning.Plan(epochs=8, batch_size=8, learning_rate=3e-3)
        path.mkdir()
        for slug in ("sst-2", "sts-b"):
            task = TASKS[slug]
            train, dev = read.train(task, glue_folder), read.dev(task, glue_folder)
            finetuning.finetune(str(bert_folder), task, train, dev, path / task.name, plan)

    return once("tuned", make)


def test_one_model(command: Command, tuned: Path, glue_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    other = references.Reference("Bert-small", tiny | {"vocab_size": 1100}, 0.8, {"sst-2": 0.93})
    monkeypatch.setattr(references, "REFERENCES", (other,))
    ran = command("bench", "glue", "-m", tuned / "SST-2", "--data", glue_folder, "--rounds", 5, "--limit", 12)
    assert ran.code == 0, ran.err
    for text in (
        "SST-2",
        "accuracy 100.0",
        "first 12",
        "Bert-small",
        "cited 80.0",
        "cited 93.0",
        "peak memory",
        "p90",
    ):
        assert text in ran.out


def test_a_folder_of_models(command: Command, tuned: Path, glue_folder: Path, tmp_path: Path) -> None:
    given = ("bench", "glue", "-m", tuned, "--data", glue_folder, *QUICK, "-o", tmp_path / "report")
    ran = command(*given, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert [each["task"] for each in record["tasks"]] == ["SST-2", "STS-B"]
    assert record["tasks"][0]["scores"] == {"accuracy": 1}
    assert record["tasks"][1]["scores"]["pearson"] > 0.9
    assert record["tasks"][0]["latency"]["model"]["rounds"] == 5
    assert json.loads((tmp_path / "report/glue.json").read_text(encoding="utf-8")) == record
    assert "2 tasks" in (tmp_path / "report/glue.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    ran = command(*given[:6], *QUICK, "--tasks", "rte")
    assert ran.code == 2
    assert "no model for RTE" in ran.err


def test_a_bundle(
    command: Command, tuned: Path, glue_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "speedup", lambda *_: 2.0)  # so small a model tells nothing of int8
    made = command(
        "optimize", tuned / "SST-2", "-d", "cortex-a53-2gb", "-o", tmp_path / "small", "--samples", 2,
        "--recipe", _recipe(tmp_path),
    )  # fmt: skip
    assert made.code == 0, made.err
    given = ("bench", "glue", "-m", tmp_path / "small", "--data", glue_folder, *QUICK)
    ran = command(*given, "--tasks", "sst-2", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["tasks"][0]["scores"]["accuracy"] == 1
    unnamed = command(*given)
    assert unnamed.code == 2
    assert "does not say which task it is for. Name it" in unnamed.err.replace("\n", " ")


def _recipe(folder: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text('[[steps]]\npass = "dynamic_wi8_ai8"\n', encoding="utf-8")
    return path


def test_fine_tuned_on_the_way(
    command: Command, bert_folder: Path, glue_folder: Path, tmp_path: Path
) -> None:
    given = (
        "bench",
        "glue",
        "-m",
        bert_folder,
        "--finetune",
        "--data",
        glue_folder,
        "--tasks",
        "mnli",
        *QUICK,
    )
    plan = ("--epochs", 8, "--batch-size", 8, "--learning-rate", 3e-3, "-o", tmp_path / "report")
    ran = command(*given, *plan)
    assert ran.code == 0, ran.err
    assert "matched accuracy 100.0, mismatched accuracy 100.0" in " ".join(ran.out.split())
    assert "fine-tuning for MNLI: step 6 of 48" in ran.err
    weights = tmp_path / "report/models/MNLI/model.safetensors"
    before = weights.stat().st_mtime_ns
    again = command(*given, *plan, "--limit", 48)
    assert again.code == 2
    assert "with other settings" in again.err
    assert command(*given, *plan).code == 0
    assert weights.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "sst3"), "no GLUE task 'sst3'"),
        (("--tasks", "mnli"), "MNLI has 3 classes"),
        (("--tasks", "rte", "--data", "nowhere"), "There is no folder"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], message: str, command: Command, tuned: Path, glue_folder: Path
) -> None:
    ran = command("bench", "glue", "-m", tuned / "SST-2", "--data", glue_folder, *QUICK, *arguments)
    assert ran.code == 2
    assert message in ran.err


def test_no_classifier(command: Command, bert_folder: Path, glue_folder: Path) -> None:
    ran = command("bench", "glue", "-m", bert_folder, "--tasks", "rte", "--data", glue_folder, *QUICK)
    assert ran.code == 2
    assert "is no classifier of text" in ran.err


def test_help(command: Command) -> None:
    ran = command("bench", "glue", "--help")
    assert ran.code == 0
    assert "Usage: openglm bench glue" in ran.out
    assert "network" in ran.out
