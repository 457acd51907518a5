"""The nine tasks as their files lay them out, broken in real ways, and through the `datasets` package."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openglm.errors import InputError, MissingExtraError
from openglm.glue import read
from openglm.glue.tasks import TASKS, task_of

FIRST = {
    "cola": {"text": 'The cat sat "on.'},
    "sst-2": {"text": "the cat ran , and it 's big . "},
    "mrpc": {"text": 'He said " the cat ran .', "text_pair": 'A cat "ran .'},
    "sts-b": {"text": 'A "cat sat.', "text_pair": "The cat sat."},
    "qqp": {"text": "Where is the cat?", "text_pair": "Is the cat here?"},
    "mnli": {"text": "The cat ran.", "text_pair": "A cat ran."},
    "qnli": {"text": "What ran?", "text_pair": "The cat ran."},
    "rte": {"text": "The cat ran.", "text_pair": "It ran."},
    "wnli": {"text": "The cat ran.", "text_pair": "It ran."},
}


@pytest.mark.parametrize("slug", TASKS)
def test_each_layout(slug: str, glue_folder: Path) -> None:
    task = TASKS[slug]
    trained, judges = read.train(task, glue_folder), read.dev(task, glue_folder)
    assert len(list(trained)) == 48
    assert list(judges) == (["matched", "mismatched"] if slug == "mnli" else [""])
    for data in judges.values():
        rows = list(data)
        assert rows[0].inputs == FIRST[slug]
        numbers = [0, 5] if slug == "sts-b" else [0, 1, 2] if slug == "mnli" else [0, 1]
        assert [row.label for row in rows] == [numbers[row % len(numbers)] for row in range(16)]
        assert data.classes == task.classes


def test_what_is_there(glue_folder: Path, tmp_path: Path) -> None:
    assert read.present(glue_folder) == list(TASKS.values())
    (tmp_path / "sst2").mkdir()
    assert [task.name for task in read.present(tmp_path)] == ["SST-2"]
    with pytest.raises(InputError, match="holds no folder of a GLUE task"):
        read.present(tmp_path / "sst2")


def test_names() -> None:
    assert task_of("SST-2") is task_of("sst2") is task_of("Sst_2") is TASKS["sst-2"]
    with pytest.raises(InputError, match=r"no GLUE task 'sst-3'\. Did you mean sst-2"):
        task_of("sst-3")


@pytest.mark.parametrize(
    ("slug", "content", "message"),
    [
        ("sst-2", "", "holds no samples"),
        ("sst-2", "sentence\tlabel\n", "holds no samples"),
        ("sst-2", "text\tlabel\nfine\t1\n", "no column 'sentence'; its columns are text, label"),
        ("sst-2", "sentence\tlabel\nfine\t2\n", "dev.tsv:2 has the label 2, and SST-2's go from 0 to 1"),
        ("sst-2", "sentence\tlabel\nfine\t-1\n", "test files have no labels"),
        ("sst-2", "sentence\tlabel\nfine\t\n", "empty label"),
        ("sst-2", "sentence\tlabel\nfine\t1\nbad\n", "dev.tsv:3 has 1 fields where the first line has 2"),
        ("rte", "sentence1\tsentence2\tlabel\na\tb\tentails\n", "label 'entails'. Did you mean entailment"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\t5.2\n", "label 5.2, and STS-B's go from 0 to 5"),
        ("sts-b", "sentence1\tsentence2\tscore\na\tb\tgood\n", "label good"),
    ],
)
def test_broken_files(slug: str, content: str, message: str, tmp_path: Path) -> None:
    task = TASKS[slug]
    (tmp_path / task.name).mkdir()
    (tmp_path / task.name / "dev.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list(read.dev(task, tmp_path)[""])


def test_qqp_has_broken_rows(tmp_path: Path) -> None:
    (tmp_path / "QQP").mkdir()
    rows = ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "1\t2\t3\tWhy", "4\t5\t6\ta?\tb?\t1"]
    (tmp_path / "QQP" / "dev.tsv").write_text("\n".join(rows), encoding="utf-8")
    assert [row.label for row in read.dev(TASKS["qqp"], tmp_path)[""]] == [1]


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*RTE"):
        read.dev(TASKS["rte"], tmp_path)
    (tmp_path / "RTE").mkdir()
    with pytest.raises(InputError, match=r"There is no file .*train\.tsv"):
        read.train(TASKS["rte"], tmp_path)


def test_through_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, *, split: str) -> list[dict[str, Any]]:
        asked.append((path, name, split))
        return [{"premise": "A man ran.", "hypothesis": "He sat.", "label": 2, "idx": 0}]

    package: Any = ModuleType("datasets")
    package.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", package)
    judges = read.dev(TASKS["mnli"], None)
    assert asked == [(read.HUB_ID, "mnli", f"validation_{part}") for part in ("matched", "mismatched")]
    (row,) = judges["mismatched"]
    assert (row.inputs, row.label) == ({"text": "A man ran.", "text_pair": "He sat."}, 2)

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    package.load_dataset = broken
    with pytest.raises(InputError, match="SST-2 cannot be had from the Hub"):
        read.train(TASKS["sst-2"], None)


def test_the_package_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"openglm\[glue\]"):
        read.dev(TASKS["sst-2"], None)
