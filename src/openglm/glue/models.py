"""What is judged: for each task something that answers one row of text, whatever it was made from.

A model may be a transformers folder, a bundle or an .onnx file with its tokenizer; or a folder of
such, one for each task, called as the tasks are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from openglm.bundle.manifest import FILE
from openglm.bundle.store import is_bundle, opened
from openglm.data.dataset import Dataset
from openglm.dynamic.program import model_files
from openglm.dynamic.session import load
from openglm.errors import InputError
from openglm.glue import finetuning, read
from openglm.glue.tasks import TASKS, Task
from openglm.metrics.metric import main_output
from openglm.model.auto import AutoModel
from openglm.model.extra_outputs import plain
from openglm.model.sources import onnx_file, transformers_folder
from openglm.model.sources.zoo import ZOO
from openglm.runtimes.onnxruntime import Runner
from openglm.training.loop import Progress

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Classifier:
    """A model of one task, loaded in the engine."""

    encode: Callable[[Mapping[str, str]], Arrays]
    """From "text" and "text_pair" to the model's inputs, a batch of one."""
    run: Callable[[Arrays], np.ndarray]
    """From those to its output, (1, outputs)."""
    classes: tuple[str, ...] | None
    """The names of its outputs, where it states them."""
    size_bytes: int
    file: Path
    """As `open_file` takes it."""
    config: Path | None
    """transformers' config.json, where it has one."""


Provider = Callable[[Task], Classifier]
"""Gives the model of a task."""


def tasks_of(source: str) -> list[Task]:
    """The tasks that a model says it is for; none where it does not say."""
    folder = Path(source)
    if _several(folder):
        return read.present(folder)
    if words := _words(source):
        return [task for slug, task in TASKS.items() if slug in words]
    if transformers_folder.matches(source):
        stated = AutoModel.from_pretrained(source).config.get("openglm_task")
        return [TASKS[stated]] if stated in TASKS else []
    return []


def _words(source: str) -> dict[str, str]:
    """By task, what stands before its texts, for a model that answers several; none for others."""
    name = source
    if is_bundle(Path(source)):
        name = _made_from(source)
    if name not in ZOO or not ZOO[name].available():
        return {}
    found: dict[str, str] = AutoModel.from_pretrained(name).config.get("openglm_tasks", {})
    return found


def _made_from(source: str) -> str:
    """What a bundle was made from."""
    with opened(Path(source)) as (_, manifest):
        return manifest.source.source


def _of_several(given: Classifier, task: Task, word: str) -> Classifier:
    """A model of several tasks, as one of this task. A value is between its bounds what the second of two
    answers is between 0 and 1."""

    def encode(row: Mapping[str, str]) -> Arrays:
        return given.encode({**row, "text": f"{word} {row['text']}"})

    def run(arrays: Arrays) -> np.ndarray:
        answers = given.run(arrays)
        if task.classes is not None:
            return answers
        least, most = task.bounds
        share = 1 / (1 + np.exp(answers[:, :1] - answers[:, 1:2]))
        value: np.ndarray = least + (most - least) * share
        return value

    return replace(given, encode=encode, run=run, classes=None)


def stored(source: str, threads: int, work: Path, resources: ExitStack) -> Provider:
    """Gives the models that are at `source`, loaded; graphs are written into `work`."""
    folder = Path(source)
    if words := _words(source):

        @cache
        def loaded() -> Classifier:
            return _open(source, threads, work / "model.onnx", resources)

        def of_several(task: Task) -> Classifier:
            if task.slug not in words:
                raise InputError(f"{source} has not learnt {task.name}.", f"Give --tasks {','.join(words)}.")
            return _of_several(loaded(), task, words[task.slug])

        return of_several
    if not _several(folder):
        return lambda task: _open(source, threads, work / f"{task.slug}.onnx", resources)

    def provide(task: Task) -> Classifier:
        found = read.subfolder(folder, task)
        if found is None:
            raise InputError(
                f"{source} holds no model for {task.name}.", f"Put one into {folder / task.name}."
            )
        return _open(str(found), threads, work / f"{task.slug}.onnx", resources)

    return provide


def finetuned(
    source: str,
    data: Path | None,
    plan: finetuning.Plan,
    home: Path,
    progress: Callable[[Task, Progress], None],
) -> Callable[[Task], Path]:
    """Gives, for a task, the folder in `home` of `source` fine-tuned for it; one that is there is taken.

    Raises `InputError` where what is there was made otherwise.
    """

    def provide(task: Task) -> Path:
        output = home / task.name
        if transformers_folder.matches(str(output)):
            made = AutoModel.from_pretrained(output).config.get("openglm_recipe")
            if made != finetuning.recipe(source, task, plan):
                raise InputError(
                    f"{output} was fine-tuned from another model, or with other settings.",
                    "Remove it, or give another output folder.",
                )
            return output
        judges: dict[str, Dataset] = read.dev(task, data)
        finetuning.finetune(
            source, task, read.train(task, data), judges, output, plan, lambda step: progress(task, step)
        )
        return output

    return provide


def _several(folder: Path) -> bool:
    """Whether this is a folder of models, one for each task."""
    if is_bundle(folder) or transformers_folder.matches(str(folder)):
        return False
    return any(read.subfolder(folder, task) for task in TASKS.values())


def _open(source: str, threads: int, path: Path, resources: ExitStack) -> Classifier:
    if is_bundle(Path(source)):
        return _open_bundle(Path(source), threads, resources)
    model = AutoModel.from_pretrained(source)
    if model.task != "classification":
        raise InputError(
            f"{source} is no classifier of text.",
            "Fine-tune it first: openglm finetune, or bench glue --finetune.",
        )
    processor = model.processor
    if processor is None:
        raise InputError(f"{source} has no tokenizer.", "Put its tokenizer.json beside it.")
    onnx_file.write(plain(model.graph), path)
    runner = Runner(path, threads=threads)
    config = Path(source) / "config.json"
    return Classifier(
        encode=lambda row: processor([row]),
        run=lambda arrays: main_output(runner.run(arrays), "GLUE"),
        classes=model.class_names,
        size_bytes=path.stat().st_size,
        file=path,
        config=config if config.is_file() else None,
    )


def _open_bundle(source: Path, threads: int, resources: ExitStack) -> Classifier:
    folder, _ = resources.enter_context(opened(source))
    session = resources.enter_context(load(folder, threads=threads))
    return Classifier(
        encode=lambda row: session.processor([row]),
        run=lambda arrays: main_output(session.run(arrays), "GLUE"),
        classes=session.manifest.classes,
        size_bytes=sum(file.stat().st_size for file in model_files(folder / FILE)),
        file=folder / FILE,
        config=None,
    )
