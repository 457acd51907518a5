"""The data of a task: from a folder in GLUE's own layout, or through the `datasets` package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openglm.data.columns import sample_of
from openglm.data.dataset import Dataset, Label, Sample
from openglm.data.table import tsv
from openglm.errors import InputError, MissingExtraError, nearest
from openglm.glue.tasks import TASKS, Task, alike

HUB_ID = "nyu-mll/glue"
TRAIN = "train.tsv"


def train(task: Task, folder: Path | None) -> Dataset:
    """What a task is trained on. See `dev`."""
    if folder is None:
        return _distributed(task, "train")
    return _file(task, _folder(task, folder) / TRAIN)


def dev(task: Task, folder: Path | None) -> dict[str, Dataset]:
    """What judges a task, by the names of `Task.dev`; labels are numbers of its classes, or values.

    `folder` holds one folder for each task. Without it the data come from the Hugging Face Hub through
    the `datasets` package: its cache, else the network. Raises `InputError` where a file is missing,
    empty or broken, `MissingExtraError` where that package is.
    """
    if folder is None:
        names = {part: f"validation_{part}" if part else "validation" for part in task.dev}
        return {part: _distributed(task, name) for part, name in names.items()}
    home = _folder(task, folder)
    return {part: _file(task, home / name) for part, name in task.dev.items()}


def present(folder: Path) -> list[Task]:
    """The tasks that `folder` holds a folder for; raises `InputError` where there are none."""
    found = [task for task in TASKS.values() if subfolder(folder, task) is not None]
    if not found:
        raise InputError(
            f"{folder} holds no folder of a GLUE task.",
            f"Give one that holds {', '.join(task.name for task in TASKS.values())}, or some of them.",
        )
    return found


def subfolder(folder: Path, task: Task) -> Path | None:
    """The folder of a task in `folder`, however its name is written."""
    if not folder.is_dir():
        return None
    found = (entry for entry in sorted(folder.iterdir()) if entry.is_dir())
    return next((entry for entry in found if alike(entry.name, task.name)), None)


def _folder(task: Task, folder: Path) -> Path:
    home = subfolder(folder, task)
    if home is None:
        raise InputError(
            f"There is no folder {folder / task.name}.",
            f"Put {TRAIN} and the dev files of {task.name} there.",
        )
    return home


def _file(task: Task, path: Path) -> Dataset:
    if not path.is_file():
        raise InputError(f"There is no file {path}.", f"Put {task.name}'s {path.name} there.")

    def rows() -> Iterator[tuple[str, Any]]:
        for number, row in tsv(path, skip_broken=task.skip_broken):
            yield f"{path}:{number}", row

    first = next(rows(), None)
    if first is None:
        raise InputError(f"{path} holds no samples.", "Give a file with at least one row.")
    columns = list(first[1])
    if missing := [column for column in task.columns.values() if column not in columns]:
        raise InputError(
            f"{path} has no column '{missing[0]}'; its columns are {', '.join(columns)}.",
            f"Give {task.name} as GLUE has it.",
        )

    def read() -> Iterator[Sample]:
        for place, row in rows():
            yield _labelled(task, sample_of(row, task.columns, place), place)

    return Dataset(f"{task.name}/{path.name}", read, labelled=True, classes=task.classes)


def _distributed(task: Task, split: str) -> Dataset:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets, which fetches GLUE where no folder is given,", "glue") from error
    name = task.slug.replace("-", "")
    try:
        table = load_dataset(HUB_ID, name, split=split)
    except Exception as error:  # the package's own kinds, and those of the network
        raise InputError(
            f"{task.name} cannot be had from the Hub ({type(error).__name__}).",
            "Check the network, or give a folder with --data.",
        ) from error
    columns = task.distributed or task.columns

    def read() -> Iterator[Sample]:
        for number, row in enumerate(table, 1):
            place = f"{task.name}'s {split}, row {number}"
            yield _labelled(task, sample_of(row, columns, place), place)

    return Dataset(f"{task.name}/{split}", read, labelled=True, classes=task.classes)


def _labelled(task: Task, sample: Sample, place: str) -> Sample:
    assert sample.label is not None
    return Sample(sample.inputs, _label(task, sample.label, place))


def _label(task: Task, label: Label, place: str) -> Label:
    """A label as a number of the task's classes, or as a value within its bounds."""
    if task.classes is None:
        low, high = task.bounds
        if isinstance(label, str) or not low <= label <= high:
            raise InputError(
                f"{place} has the label {label}, and {task.name}'s go from {low:g} to {high:g}.",
                "Correct or remove it.",
            )
        return label
    if isinstance(label, str):
        if label not in task.classes:
            raise InputError(f"{place} has the label '{label}'.", nearest(label, task.classes))
        return task.classes.index(label)
    if label not in range(len(task.classes)):
        raise InputError(
            f"{place} has the label {label}, and {task.name}'s go from 0 to {len(task.classes) - 1}.",
            "Correct or remove it; GLUE's own test files have no labels.",
        )
    return int(label)
