"""A task of the user's own, told from its data."""

from __future__ import annotations

from pathlib import Path

from openglm.data import open_data
from openglm.data.dataset import Dataset
from openglm.errors import InputError
from openglm.glue.tasks import Task

HELD_OUT = 10
"""One row in so many judges, where no dev data are given."""
_MOST_CLASSES = 1000


def own(
    train: Path, dev: Path | None, *, regression: bool = False
) -> tuple[Task, Dataset, dict[str, Dataset]]:
    """The task, what trains, and what judges; every tenth row of `train` where `dev` is None.

    Labels that are names, or whole numbers from 0 on, are classes, judged by accuracy; fractions, or
    any numbers with `regression`, are values, judged by Pearson's and Spearman's correlation. Raises
    `InputError` where there are no labels or they are neither.
    """
    data = open_data(train)
    if not data.labelled:
        raise InputError(f"{train} has no labels.", "Give a table with a column 'label'.")
    task = _task(data, regression)
    if dev is not None:
        judge = open_data(dev)
        if not judge.labelled:
            raise InputError(f"{dev} has no labels.", "Give a table with a column 'label'.")
        return task, _with(data, task), {"": _with(judge, task)}
    return task, _with(data, task, held_out=False), {"": _with(data, task, held_out=True)}


def _task(data: Dataset, regression: bool) -> Task:
    labels = {sample.label for sample in data if sample.label is not None}
    names = sorted(label for label in labels if isinstance(label, str))
    numbers = sorted(label for label in labels if not isinstance(label, str))
    values = Task(data.name, {}, ("pearson", "spearman"))
    if names:
        if numbers:
            raise InputError(
                f"{data.name} has the label '{names[0]}' beside {numbers[0]}.",
                "Give names only, or numbers only.",
            )
        return Task(data.name, {}, ("accuracy",), tuple(names))
    if regression or any(number != int(number) for number in numbers):
        return values
    if numbers != list(range(len(numbers))) or len(numbers) > _MOST_CLASSES:
        raise InputError(
            f"{data.name} has whole numbers from {numbers[0]} to {numbers[-1]} as labels, not all from 0 on.",
            "Number classes from 0, or say --regression for values.",
        )
    return Task(data.name, {}, ("accuracy",), tuple(map(str, numbers)))


def _with(data: Dataset, task: Task, held_out: bool | None = None) -> Dataset:
    """The data under the task's classes: all of it, the rows held out, or the others."""

    def kept(number: int) -> bool:
        return held_out is None or (number % HELD_OUT == HELD_OUT - 1) == held_out

    return Dataset(
        data.name + (" (held out)" if held_out else ""),
        lambda: (sample for number, sample in enumerate(data) if kept(number)),
        labelled=True,
        classes=task.classes,
    )
