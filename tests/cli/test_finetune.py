"""`openglm finetune`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

Command = Callable[..., Any]
FAST = ("--epochs", 2, "--batch-size", 8, "--learning-rate", 3e-3)


def test_a_glue_task(command: Command, bert_folder: Path, glue_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = command("finetune", bert_folder, "--task", "sst2", "--data", glue_folder, "-o", out, *FAST)
    assert ran.code == 0, ran.err
    assert "SST-2: accuracy" in ran.out
    assert "on 16 rows that did not train" in ran.out
    assert "step 6 of 12: score" in ran.err
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    again = command("finetune", bert_folder, "--task", "sst2", "--data", glue_folder, "-o", out, *FAST)
    assert again.code == 5
    assert "exists and is not empty" in again.err


def test_data_of_ones_own(command: Command, bert_folder: Path, tmp_path: Path) -> None:
    rows = [f"the {thing} ran\t{label}" for label, thing in (("yes", "cat"), ("no", "dog"))] * 20
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    (tmp_path / "dev.tsv").write_text("\n".join(["text\tlabel", *rows[:6]]), encoding="utf-8")
    given = (
        "finetune",
        bert_folder,
        "--data",
        tmp_path / "train.tsv",
        "--dev",
        tmp_path / "dev.tsv",
        "--json",
    )
    ran = command(*given, "-o", tmp_path / "out", *FAST, "--limit", 30)
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["rows"] == {"train": 30, "dev": 6}
    assert set(record["scores"]) == {"accuracy"}
    assert [step for step, _ in record["evaluations"]] == [3, 6]
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "no", "1": "yes"}
    assert "openglm_task" not in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to train on"),
        (("--task", "sst3"), "no GLUE task 'sst3'"),
        (("--task", "rte", "--dev", "x.tsv"), "data of your own"),
        (("--task", "rte", "--data", "nowhere"), "There is no folder"),
        (("--data", "nowhere.tsv"), "There is no file"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...], message: str, command: Command, bert_folder: Path, tmp_path: Path
) -> None:
    ran = command("finetune", bert_folder, "-o", tmp_path / "out", *arguments)
    assert ran.code == 2
    assert message in ran.err
