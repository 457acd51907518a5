"""What open-autoglm-base learns: four tasks of GLUE at once, each text told apart by a word before it.

All tasks have two answers. A pair's similarity, 0 to 5, is the probability of the second one: such a
pair comes several times, as often with the label 1 as its score says. Some rows of every task are held
out; they choose weights and set gates, and GLUE's dev sets only judge.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from openglm.data.dataset import Dataset, Sample
from openglm.glue import read
from openglm.glue.tasks import TASKS

SEED = 20
WORDS = {"sst-2": "sentiment:", "cola": "grammar:", "mrpc": "meaning:", "sts-b": "similarity:"}
"""What stands before a task's texts."""
TIMES = {"sst-2": 1, "cola": 3, "mrpc": 4, "sts-b": 5}
"""How often a row of training comes."""
MOST = 45_000
"""Rows of a task, at most: SST-2 has as many again as all others together."""
HELD_OUT = {"sst-2": 1000, "cola": 800, "mrpc": 360, "sts-b": 540}
LONG = 12
"""Words that a held-out sentence of SST-2 has at least: dev has 19 on average, train 9."""


class Row(NamedTuple):
    """One text, or two."""

    task: str
    inputs: dict[str, str]
    target: float
    """The probability of the second answer."""


def rows(data: Path, task: str, *, dev: bool = False) -> list[Row]:
    """A task's rows, as GLUE's own file has them."""
    given = read.dev(TASKS[task], data)[""] if dev else read.train(TASKS[task], data)
    least, most = TASKS[task].bounds if TASKS[task].classes is None else (0.0, 1.0)
    found = []
    for sample in given:
        inputs = {**sample.inputs, "text": f"{WORDS[task]} {sample.inputs['text']}"}
        assert isinstance(sample.label, int | float)
        found.append(Row(task, inputs, (sample.label - least) / (most - least)))
    return found


def split(data: Path, task: str) -> tuple[list[Row], list[Row]]:
    """A task's training rows, and those held out, whose texts no training row holds a part of."""
    draws = random.Random(SEED)
    every = rows(data, task)
    long = [row for row in every if task != "sst-2" or len(row.inputs["text"].split()) > LONG]
    held = draws.sample(long, HELD_OUT[task])
    texts = {text for row in held for text in _texts(row)}
    joined = "\n".join(sorted(texts))
    kept = [row for row in every if not any(text in joined for text in _texts(row))]
    return draws.sample(kept, min(len(kept), MOST)), held


def _texts(row: Row) -> list[str]:
    return [row.inputs["text"].partition(" ")[2], *filter(None, [row.inputs.get("text_pair")])]


def training(data: Path) -> tuple[Dataset, Dataset]:
    """What is trained on, and what is held out, with labels 0 and 1."""
    draws = random.Random(SEED)
    learnt: list[Sample] = []
    held: list[Sample] = []
    for task, times in TIMES.items():
        kept, out = split(data, task)
        for row in kept:
            whole, part = divmod(row.target * times, 1)
            ones = int(whole) + (draws.random() < part)
            learnt += [Sample(row.inputs, int(place < ones)) for place in range(times)]
        held += [Sample(row.inputs, int(row.target >= 0.5)) for row in out]
    draws.shuffle(learnt)
    draws.shuffle(held)
    return _dataset("GLUE, four tasks", learnt), _dataset("held out", held)


def judging(data: Path) -> dict[str, Dataset]:
    """The held-out rows of the tasks that have classes, by task."""
    found = {}
    for task in TIMES:
        if TASKS[task].classes is not None:
            samples = [Sample(row.inputs, int(row.target)) for row in split(data, task)[1]]
            found[task] = _dataset(f"{task}, held out", samples)
    return found


def _dataset(name: str, samples: list[Sample]) -> Dataset:
    def read_all() -> Iterator[Sample]:
        return iter(samples)

    return Dataset(name, read_all, labelled=True)
