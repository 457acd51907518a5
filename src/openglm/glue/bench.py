"""Judging a model by GLUE, and measuring it beside networks of well-known shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.bundle.manifest import Host, Timing
from openglm.data.dataset import Dataset
from openglm.dynamic import footprint
from openglm.errors import InputError
from openglm.glue import memory, references
from openglm.glue.models import Arrays, Classifier, Provider
from openglm.glue.references import Reference
from openglm.glue.scores import mean, scores
from openglm.glue.tasks import TASKS, Task
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME, Runner, version

MODEL = "model"
"""What the model is called among the sides; the others have their own names."""
LONGEST = 512
"""Tokens that the networks beside the model take at most."""

Tell = Callable[[str], None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Judged(_Part):
    """A model on one task."""

    task: str
    scores: dict[str, float]
    """The official figures, from -1 or 0 to 1."""
    score: float
    """Their mean."""
    rows: int
    """How many judged."""
    whole: bool
    """Whether these are all of the dev data."""
    latency: dict[str, Timing]
    """Of one row at its own length, by the names of the sides, all measured in turn."""


class Side(_Part):
    """What was measured of one model, and what is said of it."""

    name: str
    size_bytes: int
    latency: Timing
    """Over the rows of all tasks."""
    speedup: float | None = None
    """How many times faster the model is than this, the median over the rows; None of the model itself."""
    peak_memory_mb: float | None
    """In inference, at the longest of the rows that were timed."""
    finetuning_memory_mb: float | None = None
    """Where it was asked for."""
    average: float
    """GLUE's average: the mean over the tasks, of those judged for the model, cited of the others."""
    cited: bool
    """Whether the scores are published ones, quoted and not measured here."""
    scores: dict[str, float]
    """By task."""


class Result(_Part):
    """What `bench` found."""

    model: str
    tasks: tuple[Judged, ...]
    sides: tuple[Side, ...]
    """The model, then what it is put beside."""
    data: str
    host: Host


class Bench:
    """Judges a model task by task, in turn with networks of the shapes of `others`."""

    def __init__(
        self,
        provide: Provider,
        others: Sequence[Reference],
        *,
        threads: int,
        rounds: int,
        work: Path,
        tell: Tell,
    ) -> None:
        self._provide, self._others = provide, others
        self._threads, self._rounds, self._work, self._tell = threads, rounds, work, tell
        self._runners: dict[str, Runner] = {}
        for other in others:
            tell(f"exporting a network of {other.name}'s shape")
            references.write_graph(other, self._path(other))
            self._runners[other.name] = Runner(self._path(other), threads=threads)
        self._times: dict[str, list[np.ndarray]] = {}
        self._judged: list[Judged] = []
        self._models: list[tuple[Classifier, Arrays]] = []
        """The models with the longest input that each was timed on."""

    def judge(self, task: Task, dev: Mapping[str, Dataset], limit: int | None) -> None:
        """Score and time the model of a task; raises `InputError` where model or data do not fit it."""
        model = self._provide(task)
        self._tell(f"judging {task.name}")
        outputs: dict[str, np.ndarray] = {}
        labels: dict[str, list[Any]] = {}
        whole = True
        for part, data in dev.items():
            answers: list[np.ndarray] = []
            labels[part] = []
            for sample in data:
                if len(answers) == limit:
                    whole = False
                    break
                answers.append(model.run(model.encode(sample.inputs))[0])
                labels[part].append(sample.label)
            outputs[part] = _in_order(task, model, np.stack(answers))
        found = scores(task, outputs, labels)
        self._tell(f"timing {task.name}")
        self._judged.append(
            Judged(
                task=task.name,
                scores=found,
                score=mean(found),
                rows=sum(map(len, labels.values())),
                whole=whole,
                latency=self._time(model, next(iter(dev.values()))),
            )
        )

    def _time(self, model: Classifier, data: Dataset) -> dict[str, Timing]:
        """Time rows from all over the data, each in turn with rows of the same length in the others."""
        rows = [model.encode(sample.inputs) for sample in data.spread(self._rounds)]
        lengths = [_tokens(row) for row in rows]
        self._models.append((model, rows[int(np.argmax(lengths))]))
        calls = {MODEL: _each(model.run, rows)}
        for name, runner in self._runners.items():
            calls[name] = _each(runner.run, [references.row(runner.inputs, length) for length in lengths])
        times = measure.interleaved(calls, rounds=self._rounds, warmup=1)
        for name, taken in times.items():
            self._times.setdefault(name, []).append(taken)
        return {name: measure.summary(taken) for name, taken in times.items()}

    def result(self, name: str, data: str, *, finetuning: bool) -> Result:
        """All that was found; `finetuning` asks for the memory of that too, which takes minutes."""
        self._tell("measuring memory")
        model, longest = max(self._models, key=lambda found: _tokens(found[1]))
        sides = [
            self._side(
                MODEL,
                name,
                size_bytes=model.size_bytes,
                peak_memory_mb=self._peak(model.file, longest),
                finetuning_memory_mb=_finetuning_mb(model.config) if finetuning else None,
                average=mean({judged.task: judged.score for judged in self._judged}),
                cited=False,
                scores={judged.task: judged.score for judged in self._judged},
            )
        ]
        for other in self._others:
            self._tell(f"measuring the memory of {other.name}'s shape")
            path, inputs = self._path(other), self._runners[other.name].inputs
            sides.append(
                self._side(
                    other.name,
                    other.name,
                    size_bytes=path.stat().st_size,
                    peak_memory_mb=self._peak(path, references.row(inputs, _tokens(longest))),
                    finetuning_memory_mb=memory.measure(other.config) if finetuning else None,
                    average=other.average,
                    cited=True,
                    scores={TASKS[slug].name: value for slug, value in other.cited.items()},
                )
            )
        host = measure.host(f"{NAME} {version()}", self._threads)
        return Result(model=name, tasks=tuple(self._judged), sides=tuple(sides), data=data, host=host)

    def _side(self, key: str, name: str, **figures: Any) -> Side:
        taken, own = (np.concatenate(self._times[each]) for each in (key, MODEL))
        speedup = None if key == MODEL else measure.speedup(taken, own)
        return Side(name=name, latency=measure.summary(taken), speedup=speedup, **figures)

    def _peak(self, path: Path, arrays: Arrays) -> float | None:
        found = footprint.measure(path, arrays, self._threads)
        return None if found is None else found.peak_mb

    def _path(self, other: Reference) -> Path:
        return self._work / f"{other.name}.onnx"


def _in_order(task: Task, model: Classifier, output: np.ndarray) -> np.ndarray:
    """Outputs (rows, outputs) in the order of the task's classes, which a model may have in another."""
    if output.ndim != 2 or output.shape[1] != task.outputs:
        wanted = "one output, a value" if task.classes is None else f"{task.outputs} classes"
        raise InputError(
            f"The model gives outputs of shape {list(output.shape[1:])}, and {task.name} has {wanted}.",
            f"Give a model that was fine-tuned for {task.name}.",
        )
    names = [name.lower() for name in model.classes or ()]
    if task.classes is None or sorted(names) != sorted(task.classes):
        return output
    return output[:, [names.index(name) for name in task.classes]]


def _tokens(row: Arrays) -> int:
    """The length of a text, without what fills it up, as far as the networks beside the model take it."""
    return min(int(row.get("attention_mask", np.ones_like(row["input_ids"])).sum()), LONGEST)


def _each(run: Callable[[Arrays], Any], rows: Sequence[Arrays]) -> Callable[[], Any]:
    """A call that runs the next of the rows each time."""
    turn = cycle(rows)
    return lambda: run(next(turn))


def _finetuning_mb(config: Path | None) -> float | None:
    return None if config is None else memory.measure(json.loads(config.read_text(encoding="utf-8")))
