"""Fine-tuning: an encoder gets a head for a task, and learns the task, by the project's own loop."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from openglm.data.dataset import Dataset
from openglm.errors import InputError, MissingExtraError, OutputError
from openglm.glue.scores import mean, scores
from openglm.glue.tasks import TASKS, Task
from openglm.hashing import sha256_once
from openglm.model.auto import AutoModel
from openglm.model.model import Model
from openglm.model.sources import hub, transformers_folder
from openglm.model.sources.zoo import ZOO
from openglm.training import losses
from openglm.training.loop import History, Progress, Settings, train
from openglm.training.samples import Batch, Samples

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
             "merges.txt")  # fmt: skip
"""The files of a tokenizer that a transformers folder may hold."""


@dataclass(frozen=True)
class Plan:
    """How a model is fine-tuned."""

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    seed: int = 0
    """Of the new head's weights, the order of the rows, and dropout."""
    max_length: int = 128
    """Tokens that a text, or two together, is cut to; fewer where the encoder takes fewer."""
    patience: int | None = None
    """Stop after so many epochs in a row without a better score."""
    limit: int | None = None
    """Take only so many rows of the training data and of each dev set, the first ones."""


class Finetuned(NamedTuple):
    """What came of it."""

    history: History
    scores: dict[str, float]
    """Of the weights that were kept, on the dev data, by the names of the task's figures."""
    rows: tuple[int, int]
    """How many trained, and how many judged."""


def work_folder(output: Path) -> Path:
    """Where a training keeps its state until it is done."""
    return output.with_name(f"{output.name}.training")


def check_target(output: Path) -> None:
    """Raise `OutputError` where something stands in the way of the result."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise OutputError(f"{output} exists and is not empty.", "Give another folder, or remove it.")


def finetune(
    source: str,
    task: Task,
    data: Dataset,
    dev: Mapping[str, Dataset],
    output: Path,
    plan: Plan,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Finetuned:
    """Train `source`, a transformers encoder, for a task, and write it as a transformers folder.

    After every epoch it is judged on `dev`, by the mean of the task's figures, and the best weights
    are kept. What was stopped or killed goes on where it was when called again with the same
    arguments. Raises `InputError` where source or data do not fit, `OutputError` where the result
    cannot be written.
    """
    check_target(output)
    data, *judges = (each if plan.limit is None else each.take(plan.limit) for each in (data, *dev.values()))
    for each in (data, *judges):
        _check_labels(each)
    work = work_folder(output)
    try:
        _write_start(source, task, plan, work / "start")
        model = AutoModel.from_pretrained(work / "start")
        rows = Samples(model, data)
        judged = {part: Samples(model, each) for part, each in zip(dev, judges, strict=True)}
        epoch = max(1, len(rows) // plan.batch_size)
        settings = Settings(
            steps=plan.epochs * epoch,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            evaluate_every=epoch,
            patience=plan.patience,
        )
        history = train(
            model.module,
            rows,
            loss,
            settings,
            identity=" ".join(each.digest() for each in (rows, *judged.values())),
            checkpoint=work / "state",
            evaluate=lambda module: mean(_judge(module, task, judged, plan.batch_size)),
            progress=progress,
        )
        with torch.no_grad():
            found = _judge(model.module, task, judged, plan.batch_size)
        _write(model, work, output)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror or error}).", "Give a folder that you may write to."
        ) from error
    shutil.rmtree(work, ignore_errors=True)
    return Finetuned(history, found, (len(rows), sum(map(len, judged.values()))))


def recipe(source: str, task: Task, plan: Plan) -> str:
    """A hash of what a fine-tuned model is made from, its data aside; "openglm_recipe" in its config."""
    weights = [sha256_once(file) for file in sorted(encoder_folder(source).glob("*.safetensors"))]
    return hashlib.sha256(json.dumps([weights, task.name, asdict(plan)]).encode()).hexdigest()


def encoder_folder(source: str) -> Path:
    """The transformers folder of a text encoder; raises `InputError` where `source` is none."""
    model = AutoModel.from_pretrained(source)
    if source in ZOO:
        folder = ZOO[source].folder()
    else:
        folder = Path(hub.folder_of(source, fetch=False) if hub.matches(source) else source)
    text = model.processor is not None and model.processor.kind == "text"
    if not text or not transformers_folder.matches(str(folder)):
        raise InputError(
            f"{source} is no transformers folder of a text encoder.",
            "Give one with config.json, model.safetensors and tokenizer.json, or a zoo name.",
        )
    return folder


def copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy those files of a tokenizer that a transformers folder holds."""
    for name in TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _check_labels(data: Dataset) -> None:
    first = next(iter(data), None)
    if first is None:
        raise InputError(f"{data.name} holds no sample.", "Give data with at least two.")
    if all(sample.label == first.label for sample in data):
        raise InputError(
            f"Every label of {data.name} is {first.label}: it can neither teach nor judge.",
            "Give data with more than one label, or a higher limit.",
        )


def _write_start(source: str, task: Task, plan: Plan, start: Path) -> None:
    """The encoder with a new head, always the same for a seed, and its tokenizer."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers, which makes the head,", "transformers") from error
    folder = encoder_folder(source)
    options: dict[str, Any] = {"num_labels": task.outputs, "problem_type": "regression"}
    if task.classes is not None:
        options["problem_type"] = "single_label_classification"
        options["id2label"] = dict(enumerate(task.classes))
        options["label2id"] = {name: number for number, name in enumerate(task.classes)}
    with torch.random.fork_rng([]):
        torch.manual_seed(plan.seed)
        module, loaded = transformers_folder.from_pretrained(
            transformers.AutoModelForSequenceClassification,
            folder,
            ignore_mismatched_sizes=True,  # the head of another task is replaced
            **options,
        )
    encoder = f"{module.base_model_prefix}."
    absent = sorted(key for key in loaded["missing_keys"] if key.startswith(encoder) and "pooler." not in key)
    if absent:
        raise InputError(f"{folder} has no weights for {absent[0]}.", "Save a whole encoder there.")
    module.config.openglm_recipe = recipe(source, task, plan)
    if task.slug in TASKS:
        module.config.openglm_task = task.slug
    shutil.rmtree(start, ignore_errors=True)
    start.mkdir(parents=True)
    transformers_folder.save_pretrained(module, start)
    longest = getattr(AutoModel.from_pretrained(source).processor, "max_length", None) or plan.max_length
    copy_tokenizer(folder, start)
    settings = start / "tokenizer_config.json"
    content = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    content["model_max_length"] = min(plan.max_length, longest)
    settings.write_text(json.dumps(content, indent=2), encoding="utf-8")


def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
    """The mean loss of a batch on its labels."""
    assert batch.labels is not None
    return losses.hard(losses.main_output(module(**batch.inputs)), batch.labels)


def _judge(module: nn.Module, task: Task, judged: Mapping[str, Samples], size: int) -> dict[str, float]:
    place = next(module.parameters()).device
    outputs, labels = {}, {}
    for part, rows in judged.items():
        assert rows.labels is not None
        outputs[part] = np.empty((len(rows), task.outputs), np.float32)
        labels[part] = rows.labels.tolist()
        for batch in rows.in_order(size):
            answer = losses.main_output(module(**batch.to(place).inputs))
            outputs[part][batch.indices.numpy()] = answer.float().cpu().numpy()
    return scores(task, outputs, labels)


def _write(model: Model, work: Path, output: Path) -> None:
    """The trained model with its tokenizer, whole or not at all."""
    made = work / "result"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    transformers_folder.save_pretrained(model.module.model, made)
    copy_tokenizer(work / "start", made)
    with suppress(FileNotFoundError):
        output.rmdir()  # an empty folder is there in vain
    made.rename(output)
