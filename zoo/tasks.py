"""What open-autoglm-base learns: four tasks of GLUE at once, each text told apart by a word before it.

All tasks have two answers. A pair's similarity, 0 to 5, is the probability of the second one: such a
pair comes several times, as often with the label 1 as its score says. Some rows of every task are held
out; they choose weights and set gates, and GLUE's dev sets only judge.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from spoiling import Spoiler

from openglm.data.dataset import Dataset, Sample
from openglm.glue import read
from openglm.glue.tasks import TASKS

SEED = 20
WORDS = {"sst-2": "sentiment:", "cola": "grammar:", "mrpc": "meaning:", "sts-b": "similarity:"}
"""What stands before a task's texts."""
TIMES = {"sst-2": (1, 1), "cola": (5, 2), "mrpc": (4, 4), "sts-b": (5, 5)}
"""How often a row of training comes, by its more probable answer. Three of ten sentences of CoLA are wrong;
they would be overlooked."""
MOST = 45_000
"""Rows of a task, at most: SST-2 has as many again as all others together."""
HELD_OUT = {"sst-2": 1000, "cola": 800, "mrpc": 360, "sts-b": 540}
LONG = 12
"""Words that a held-out sentence of SST-2 has at least: dev has 19 on average, train 9."""
TAUGHT = "cola"
"""The task for which a teacher is better."""
SPOILT = 0.6
"""The share of further sentences that are spoilt: most that are found are good."""


class Row(NamedTuple):
    """One text, or two."""

    task: str
    inputs: dict[str, str]
    target: float
    """The probability of the second answer."""

    @property
    def times(self) -> int:
        """How often it comes in training."""
        return TIMES[self.task][self.target > 0.5]


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


@cache
def split(data: Path, task: str) -> tuple[list[Row], list[Row]]:
    """A task's training rows, and those held out, whose texts no training row holds a part of."""
    draws = random.Random(SEED)
    every = rows(data, task)
    long = [row for row in every if task != "sst-2" or len(row.inputs["text"].split()) > LONG]
    held = draws.sample(long, HELD_OUT[task])
    joined = "\n".join(sorted({text for row in held for text in texts(row)}))
    kept = [row for row in every if not any(text in joined for text in texts(row))]
    return draws.sample(kept, min(len(kept), MOST)), held


def texts(row: Row) -> list[str]:
    """A row's one or two texts, without the task's word."""
    return [row.inputs["text"].partition(" ")[2], *filter(None, [row.inputs.get("text_pair")])]


def further(data: Path, sentences: Path | None) -> list[Row]:
    """Sentences for the teacher to judge beside CoLA's own: those, each spoilt twice, and others of a file,
    some as they are. Their targets are not known."""
    draws = random.Random(SEED)
    own = [texts(row)[0] for row in split(data, TAUGHT)[0]]
    others = lines(sentences)
    spoiler = Spoiler([*own, *others])
    found = [" ".join(spoiler(text, draws)[0]) for text in own for _ in range(2)]
    found += [" ".join(spoiler(text, draws)[0]) if draws.random() < SPOILT else text for text in others]
    return [Row(TAUGHT, {"text": f"{WORDS[TAUGHT]} {text}"}, 0.5) for text in found]


def lines(sentences: Path | None) -> list[str]:
    """The sentences of four words and more at the starts of a file's lines."""
    if sentences is None:
        return []
    firsts = {line.partition("\t")[0].strip() for line in sentences.read_text("utf-8").splitlines()}
    return sorted(text for text in firsts if len(text.split()) >= 4)


def training(data: Path, taught: Mapping[str, float]) -> Dataset:
    """What is trained on, with labels 0 and 1.

    `taught` is what a teacher says of texts, by text. Beside a label it counts half, alone wholly.
    """
    draws = random.Random(SEED)
    found: list[Sample] = []
    left = dict(taught)
    for task in TIMES:
        for row in split(data, task)[0]:
            times = row.times
            said = left.pop(row.inputs["text"], None) if task == TAUGHT else None
            target = row.target if said is None else (row.target + said) / 2
            whole, part = divmod(target * times, 1)
            ones = int(whole) + (draws.random() < part)
            found += [Sample(row.inputs, int(place < ones)) for place in range(times)]
    found += [Sample({"text": text}, int(draws.random() < said)) for text, said in left.items()]
    draws.shuffle(found)
    return dataset("GLUE, four tasks", found)


def held_out(data: Path) -> Dataset:
    """What is held out of training, of all tasks, with the probability of the second answer as the label."""
    samples = [Sample(row.inputs, row.target) for task in TIMES for row in split(data, task)[1]]
    random.Random(SEED).shuffle(samples)
    return dataset("held out", samples)


def judging(data: Path) -> dict[str, Dataset]:
    """The held-out rows of the tasks that have classes, by task."""
    found = {}
    for task in TIMES:
        if TASKS[task].classes is not None:
            samples = [Sample(row.inputs, int(row.target)) for row in split(data, task)[1]]
            found[task] = dataset(f"{task}, held out", samples)
    return found


def dataset(name: str, samples: list[Sample]) -> Dataset:
    """Samples with labels."""

    def read_all() -> Iterator[Sample]:
        return iter(samples)

    return Dataset(name, read_all, labelled=True)
