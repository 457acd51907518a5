"""The nine tasks of GLUE: their files, columns, classes and official metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from openglm.errors import InputError, nearest


@dataclass(frozen=True)
class Task:
    """One task. Its classes are numbered as GLUE numbers them."""

    name: str
    """As GLUE writes it, which its folder is called too."""
    columns: Mapping[str, str]
    """The columns of the .tsv files that hold "text", "text_pair" and "label"."""
    metrics: tuple[str, ...]
    """Names in `openglm.metrics`."""
    classes: tuple[str, ...] | None = None
    """None where the label is a value."""
    bounds: tuple[float, float] = (0.0, 0.0)
    """The least and the greatest value, where the label is one."""
    dev: Mapping[str, str] = field(default_factory=lambda: {"": "dev.tsv"})
    """The files that judge; by what their scores are called beside the metric, where there are several."""
    skip_broken: bool = False
    """Whether the official files have rows that all readers of GLUE leave out."""
    distributed: Mapping[str, str] = field(default_factory=dict)
    """The columns in the Hub's data set, where they have other names there."""

    @property
    def slug(self) -> str:
        """The name in lower case, as it is typed."""
        return self.name.lower()

    @property
    def outputs(self) -> int:
        """How many outputs a model of this task has."""
        return 1 if self.classes is None else len(self.classes)


def _one(column: str = "sentence") -> dict[str, str]:
    return {"text": column, "label": "label"}


def _two(first: str = "sentence1", second: str = "sentence2", label: str = "label") -> dict[str, str]:
    return {"text": first, "text_pair": second, "label": label}


TASKS: dict[str, Task] = {
    task.slug: task
    for task in (
        Task("CoLA", _one(), ("matthews",), ("unacceptable", "acceptable")),
        Task("SST-2", _one(), ("accuracy",), ("negative", "positive")),
        Task(
            "MRPC",
            _two("#1 String", "#2 String", "Quality"),
            ("accuracy", "f1"),
            ("not_equivalent", "equivalent"),
            distributed=_two(),
        ),
        Task("STS-B", _two(label="score"), ("pearson", "spearman"), bounds=(0.0, 5.0), distributed=_two()),
        Task(
            "QQP",
            _two("question1", "question2", "is_duplicate"),
            ("accuracy", "f1"),
            ("not_duplicate", "duplicate"),
            skip_broken=True,
            distributed=_two("question1", "question2"),
        ),
        Task(
            "MNLI",
            _two(label="gold_label"),
            ("accuracy",),
            ("entailment", "neutral", "contradiction"),
            dev={"matched": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"},
            distributed=_two("premise", "hypothesis"),
        ),
        Task("QNLI", _two("question", "sentence"), ("accuracy",), ("entailment", "not_entailment")),
        Task("RTE", _two(), ("accuracy",), ("entailment", "not_entailment")),
        Task("WNLI", _two(), ("accuracy",), ("not_entailment", "entailment")),
    )
}
"""By slug, in GLUE's order."""


def task_of(name: str) -> Task:
    """The task that a name means: "SST-2", "sst-2" and "sst2" are one; raises `InputError` for none."""
    found = next((task for task in TASKS.values() if alike(task.name, name)), None)
    if found is None:
        raise InputError(f"There is no GLUE task '{name}'.", nearest(name, TASKS))
    return found


def alike(one: str, other: str) -> bool:
    """Whether two names differ in case and hyphens only."""
    plain = [re.sub(r"[-_ ]", "", name).lower() for name in (one, other)]
    return plain[0] == plain[1]
