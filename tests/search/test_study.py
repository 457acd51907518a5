"""The record of a search: what survives, what is tried again, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from openglm.errors import InputError, OutputError
from openglm.search.study import FILE, Study

CHOICES = {"quantization": ("float", "int8"), "layers": (6, 3)}
PRINT = {"model": "abc"}


def study(folder: Path, **more: object) -> Study:
    return Study(folder, PRINT, CHOICES, **more)  # type: ignore[arg-type]


def test_finished_trials_are_kept(tmp_path: Path) -> None:
    first = study(tmp_path)
    asked = first.plan({"quantization": "int8", "layers": 3}, 2)
    first.finish(asked, "what was found", (0.5, 0.25, 0.01), 0.0)
    failed = first.plan({"quantization": "float", "layers": 3}, 0)
    first.finish(failed, "it broke", None, 1.0)
    again = study(tmp_path)
    assert not again.interrupted
    assert [(told.number, told.effort, told.content) for told in again.told()] == [
        (asked.number, 2, "what was found"),
        (failed.number, 0, "it broke"),
    ]
    assert again.told()[0].params == {"quantization": "int8", "layers": 3}


def test_an_interrupted_trial_is_tried_again(tmp_path: Path) -> None:
    begun = study(tmp_path).plan({"quantization": "int8", "layers": 3}, 1)
    again = study(tmp_path)
    assert again.interrupted
    asked = again.resume()
    assert (asked.params, asked.effort) == (begun.params, 1)
    assert asked.number != begun.number
    assert not again.interrupted
    again.finish(asked, "done", (1.0, 1.0, 0.0), 0.0)
    assert [told.content for told in study(tmp_path).told()] == ["done"]


KILLED = """
import os, signal, sys
from pathlib import Path
from openglm.search.study import Study
study = Study(Path(sys.argv[1]), {"model": "abc"}, {"quantization": ("float", "int8"), "layers": (6, 3)})
for number in range(3):
    asked = study.plan({"quantization": "int8", "layers": 6 if number else 3}, number)
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    study.finish(asked, f"trial {number}", (1.0, 1.0, 0.0), 0.0)
"""


def test_killed(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ, timeout=120)
    assert ran.returncode == -signal.SIGKILL
    again = study(tmp_path)
    assert [told.content for told in again.told()] == ["trial 0", "trial 1"]
    assert again.resume().effort == 2


def test_the_sampler_proposes_within_the_choices(tmp_path: Path) -> None:
    found = study(tmp_path)
    for number in range(12):
        asked = found.propose({"quantization": "int8"})
        assert set(asked.params) == set(CHOICES)
        assert asked.params["quantization"] == "int8"
        assert all(asked.params[name] in values for name, values in CHOICES.items())
        found.finish(asked, str(number), (1.0, 1.0, float(asked.params["layers"] == 3)), 0.0)


def test_dropped_trials_tell_nothing(tmp_path: Path) -> None:
    found = study(tmp_path)
    found.drop(found.plan({"quantization": "int8", "layers": 3}, 0))
    assert found.told() == []
    assert not study(tmp_path).interrupted


def test_memory(tmp_path: Path) -> None:
    study(tmp_path).remember("sensitivity", [{"cost": 0.5}])
    assert study(tmp_path).recall("sensitivity") == [{"cost": 0.5}]
    assert study(tmp_path).recall("other") is None


def test_other_input(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(InputError, match="begun with other model"):
        Study(tmp_path, {"model": "xyz"}, CHOICES)


def test_without_the_recipe_that_it_was_begun_with(tmp_path: Path) -> None:
    Study(tmp_path, PRINT | {"recipe": "fuse"}, {})
    with pytest.raises(InputError, match=r"begun with other recipe\."):
        study(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        """UPDATE study_user_attributes SET value_json = '{"format": "0", "model": "abc"}'""",
        "UPDATE alembic_version SET version_num = 'v1.3.0.a'",  # tables of an older Optuna
    ],
)
def test_another_version(tmp_path: Path, change: str) -> None:
    study(tmp_path)
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(change)
    with pytest.raises(InputError, match="another version of openglm"):
        study(tmp_path)


def test_choices_of_another_version(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(InputError, match="another version of openglm"):
        Study(tmp_path, PRINT, CHOICES | {"layers": (6, 4)})


@pytest.mark.parametrize("content", [b"", b"this is no database" * 100])
def test_a_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    if content:
        with pytest.raises(OutputError, match="cannot be read or written"):
            study(tmp_path)
    else:  # an empty file is an empty database
        assert study(tmp_path).told() == []


def test_a_journal(tmp_path: Path) -> None:
    journal = str(tmp_path / "record.log")
    first = study(tmp_path, storage=journal)
    first.finish(first.plan({"quantization": "int8", "layers": 3}, 0), "kept", (1.0, 1.0, 0.0), 0.0)
    assert [told.content for told in study(tmp_path, storage=journal).told()] == ["kept"]
    assert not (tmp_path / FILE).exists()


def test_one_journal_for_several_searches(tmp_path: Path) -> None:
    journal = str(tmp_path / "record.log")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        found = study(tmp_path / name, storage=journal)
        assert found.told() == []
        found.finish(found.plan({"quantization": "int8", "layers": 3}, 0), name, (1.0, 1.0, 0.0), 0.0)
    assert [told.content for told in study(tmp_path / "one", storage=journal).told()] == ["one"]
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "one").mkdir()
    assert study(tmp_path / "one", storage=journal).told() == [], "its record goes with its folder"


def test_a_database(tmp_path: Path, postgresql: str) -> None:
    first = study(tmp_path, storage=postgresql)
    first.finish(first.plan({"quantization": "int8", "layers": 3}, 0), "kept", (1.0, 1.0, 0.0), 0.0)
    begun = first.plan({"quantization": "float", "layers": 3}, 1)
    again = study(tmp_path, storage=postgresql)
    assert [told.content for told in again.told()] == ["kept"]
    assert again.resume().params == begun.params
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("storage", "error", "words"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/base",
            OutputError,
            r"me:\*\*\*@127.0.0.1:1/base cannot",
        ),
        ("postgres://me@127.0.0.1/base", InputError, "no driver for postgres://"),
        ("postgresql://me@127.0.0.1:port/base", InputError, "no URL of a database"),
        ("/nowhere/at/all/record.log", OutputError, "cannot be read or written"),
    ],
)
def test_a_storage_that_cannot_be_used(
    tmp_path: Path, storage: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        study(tmp_path, storage=storage)
