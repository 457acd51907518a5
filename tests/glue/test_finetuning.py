"""Fine-tuning a small encoder: it learns, and after a kill goes on to the same weights."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from openglm.data import open_data  # noqa: E402
from openglm.errors import InputError, OutputError  # noqa: E402
from openglm.glue import finetuning, read  # noqa: E402
from openglm.glue.finetuning import Finetuned, Plan, finetune, recipe, work_folder  # noqa: E402
from openglm.glue.own import own  # noqa: E402
from openglm.glue.tasks import TASKS  # noqa: E402
from openglm.model.auto import AutoModel  # noqa: E402
from openglm.training.loop import Settings  # noqa: E402

PLAN = Plan(epochs=8, batch_size=8, learning_rate=3e-3, max_length=32)


pytestmark = pytest.mark.usefixtures("one_thread")


def tune(slug: str, source: Path, glue: Path, output: Path, plan: Plan = PLAN, **options: Any) -> Finetuned:
    task = TASKS[slug]
    return finetune(str(source), task, read.train(task, glue), read.dev(task, glue), output, plan, **options)


def test_a_classifier(bert_folder: Path, glue_folder: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    found = tune(
        "mnli", bert_folder, glue_folder, tmp_path / "out", progress=lambda step: steps.append(step.step)
    )
    assert found.scores == {"matched accuracy": 1.0, "mismatched accuracy": 1.0}
    assert found.rows == (48, 32)
    assert steps == list(range(1, 49))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert (model.task, model.class_names) == ("classification", TASKS["mnli"].classes)
    assert model.config["openglm_task"] == "mnli"
    assert model.config["openglm_recipe"] == recipe(str(bert_folder), TASKS["mnli"], PLAN)
    assert model.processor is not None
    assert getattr(model.processor, "max_length", None) == 32
    arrays = model.processor([{"text": "The tree ran.", "text_pair": "A tree ran."}])
    with torch.no_grad():
        logits = model.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    assert logits.shape == (1, 3)
    assert int(logits.argmax()) == 2


def test_a_value(bert_folder: Path, glue_folder: Path, tmp_path: Path) -> None:
    found = tune("sts-b", bert_folder, glue_folder, tmp_path / "out")
    assert set(found.scores) == {"pearson", "spearman"}
    assert found.scores["pearson"] > 0.9
    assert AutoModel.from_pretrained(tmp_path / "out").module.model.config.num_labels == 1


def test_a_head_for_another_task_is_replaced(bert_folder: Path, glue_folder: Path, tmp_path: Path) -> None:
    short = Plan(epochs=1, batch_size=8, limit=9)
    tune("mnli", bert_folder, glue_folder, tmp_path / "three", short)
    found = tune("rte", tmp_path / "three", glue_folder, tmp_path / "two", short)
    assert found.rows == (9, 9)
    assert AutoModel.from_pretrained(tmp_path / "two").class_names == TASKS["rte"].classes


KILLED = """
import sys, os, signal, torch
torch.set_num_threads(1)
from functools import partial
from pathlib import Path
from openglm.glue import finetuning, read
from openglm.glue.tasks import TASKS
source, glue, output = sys.argv[1:]
task = TASKS["sst-2"]
plan = finetuning.Plan(epochs=8, batch_size=8, learning_rate=3e-3, max_length=32)
finetuning.Settings = partial(finetuning.Settings, checkpoint_seconds=0)
def kill(step):
    if step.step == 13:
        os.kill(os.getpid(), signal.SIGKILL)
train, dev = read.train(task, Path(glue)), read.dev(task, Path(glue))
finetuning.finetune(source, task, train, dev, Path(output), plan, kill)
"""


def test_goes_on_after_a_kill(
    bert_folder: Path,
    glue_folder: Path,
    tmp_path: Path,
    finished: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finetuning, "Settings", partial(Settings, checkpoint_seconds=0))
    ran = finished(bert_folder, glue_folder, tmp_path / "out", code=KILLED)
    assert ran.code == -signal.SIGKILL, ran.err
    assert not (tmp_path / "out").exists()
    assert work_folder(tmp_path / "out").is_dir()
    steps: list[int] = []
    again = tune("sst-2", bert_folder, glue_folder, tmp_path / "out", progress=lambda s: steps.append(s.step))
    assert steps[0] == 13
    assert not work_folder(tmp_path / "out").exists()
    whole = tune("sst-2", bert_folder, glue_folder, tmp_path / "whole")
    assert again.scores == whole.scores
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole")]
    assert files[0] == files[1]


def test_what_stands_in_the_way(bert_folder: Path, glue_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        tune("rte", bert_folder, glue_folder, tmp_path / "out")


def test_no_encoder(conv_file: Path, glue_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no transformers folder of a text encoder"):
        tune("rte", conv_file, glue_folder, tmp_path / "out")


def test_one_label_teaches_nothing(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "RTE").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        content = "sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tentailment\n"
        (tmp_path / "RTE" / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"Every label of RTE/train\.tsv is 0"):
        tune("rte", bert_folder, tmp_path, tmp_path / "out")


def table(path: Path, labels: list[str]) -> Path:
    rows = [f"the cat ran {number}\t{label}" for number, label in enumerate(labels)]
    path.write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("labels", "classes", "metrics"),
    [
        (["0", "1", "2"], ("0", "1", "2"), ("accuracy",)),
        (["no", "yes"], ("no", "yes"), ("accuracy",)),
        (["0.5", "2"], None, ("pearson", "spearman")),
    ],
)
def test_own_data(labels: list[str], classes: Any, metrics: Any, tmp_path: Path) -> None:
    path = table(tmp_path / "train.tsv", labels * 10)
    task, train, judges = own(path, None)
    assert (task.classes, task.metrics) == (classes, metrics)
    rows = [row.inputs["text"] for row in open_data(path)]
    assert [row.inputs["text"] for row in judges[""]] == rows[9::10]
    assert [row.inputs["text"] for row in train] == [row for n, row in enumerate(rows) if n % 10 != 9]
    task, train, judges = own(path, table(tmp_path / "dev.tsv", labels))
    assert len(list(train)) == len(rows)
    assert len(list(judges[""])) == len(labels)


def test_whole_numbers_as_values(tmp_path: Path) -> None:
    path = table(tmp_path / "train.tsv", ["1", "3", "5"] * 10)
    with pytest.raises(InputError, match="not all from 0 on"):
        own(path, None)
    assert own(path, None, regression=True)[0].classes is None


@pytest.mark.parametrize(
    ("content", "message"), [("text\nfine\n", "has no labels"), ("text\tlabel\na\tgood\nb\t1\n", "beside 1")]
)
def test_own_data_that_is_none(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        own(tmp_path / "train.tsv", None)
