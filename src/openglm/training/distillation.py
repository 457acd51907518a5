"""Knowledge distillation: a student learns to answer as its teacher does."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from openglm.data.dataset import Dataset
from openglm.errors import InputError
from openglm.model.auto import AutoModel
from openglm.model.model import Model
from openglm.training import losses
from openglm.training.checkpoint import fingerprint
from openglm.training.loop import History, Precision, Progress, Settings, device, train
from openglm.training.objective import Distillation, Objective, Pair, Rows, Triple, alike

RATE = 1e-4
"""Learning rate of transformers: of 5e-5 to 3e-4 the one with the least loss after 400 steps, where three
of six blocks of MiniLM learnt SST-2 from all six; the accuracies were the same within their error."""
RATE_BATCH_NORM = 1e-3
"""Of nets with batch normalisation, as is usual for them."""


class Distilled(NamedTuple):
    """A student after its training."""

    model: Model
    history: History


def distil(
    teacher: str | PathLike[str] | Model,
    student: str | PathLike[str] | Model,
    data: Any,
    temperature: float = 3.0,
    alpha: float = 0.7,
    *,
    steps: int = 1000,
    batch_size: int = 32,
    learning_rate: float | None = None,
    hidden: float = 0.0,
    relations: float = 0.0,
    hidden_pairs: Sequence[Pair] = (),
    relation_pairs: Sequence[tuple[Triple, Triple]] = (),
    augment: Literal["none", "mirror_shift"] = "none",
    precision: Precision = "auto",
    seed: int = 0,
    limit: int | None = None,
    validation: Any = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Model:
    """The student, its module a trained copy; student and teacher themselves stay as they are.

    `data` is what `open_data` reads, at most `limit` samples of it. The loss is
    alpha * soft + (1 - alpha) * hard: the distance from the teacher's answers at a temperature, and
    from the labels (Hinton, Vinyals and Dean 2015). Where the data has no labels or the model is
    no classifier, alpha counts as 1; outputs that are no logits are compared by squared error and
    angle. `hidden` and `relations` weigh what is added for the layers of `hidden_pairs`, (student's
    module, teacher's module), whose outputs are compared (TinyBERT: Jiao et al. 2020), and of
    `relation_pairs`, the query, key and value layers of both (MiniLMv2: Wang et al. 2021).

    `learning_rate` is 1e-4 if not given, and 1e-3 for a net with batch normalisation. "mirror_shift"
    mirrors pictures (rows, channels, height, width) at random and shifts them by up to an eighth.
    With `validation` data the loss there is found every `evaluate_every` steps (a tenth if not
    given), the weights with the least are kept, and after `patience` evaluations without a better
    one the training ends. In the folder `checkpoint` it keeps its state and finds it again.

    Raises `InputError` where data or labels do not fit, the two models' outputs differ in shape, or
    a model has no PyTorch module.
    """
    wanted = Distillation(temperature, alpha, hidden, relations, hidden_pairs, relation_pairs, augment)
    taught = AutoModel.from_pretrained(student)
    if validation is None and (evaluate_every or patience):
        raise InputError("There is nothing to evaluate on.", "Give validation data.")
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=default_rate(taught.module) if learning_rate is None else learning_rate,
        precision=precision,
        seed=seed,
        evaluate_every=evaluate_every or (max(1, steps // 10) if validation is not None else None),
        patience=patience,
    )
    return run(
        AutoModel.from_pretrained(teacher),
        taught,
        data,
        wanted,
        settings,
        limit=limit,
        validation=validation,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        progress=progress,
    ).model


def default_rate(module: nn.Module) -> float:
    """The learning rate for a module where none is given."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return RATE_BATCH_NORM if any(isinstance(each, batch_norms) for each in module.modules()) else RATE


def run(
    teacher: Model,
    student: Model,
    data: Any,
    wanted: Distillation,
    settings: Settings,
    *,
    limit: int | None = None,
    validation: Any = None,
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    shared: dict[str, Rows] | None = None,
) -> Distilled:
    """As `distil`, with how the training went.

    While the teacher answers, before the first step, `progress` gets step 0 and the share that is
    done as the part "answered". `shared` keeps rows and the teacher's answers for other trainings from the
    same teacher, on data sets that have names of their own.
    """
    rows = _rows(teacher, student, data, limit, wanted, shared)
    judged = None if validation is None else Rows(teacher, student, validation, None, labels=wanted.alpha < 1)
    trained = nn.ModuleDict({"student": copy.deepcopy(student.module)})
    objective = Objective(teacher, student.task, wanted)
    _check(teacher, student, rows, wanted)
    # What a row's answer is does not change, and every epoch needs it.
    repeated = settings.steps * settings.batch_size > len(rows.student)
    kept = settings.batch_size if repeated and not wanted.compares and wanted.augment == "none" else None
    identity = "" if checkpoint is None else _identity(teacher, rows, judged, wanted)

    def answered(share: float) -> None:
        progress(Progress(0, settings.steps, math.nan, 0.0, {"answered": share}))

    def evaluate(module: nn.Module) -> float:
        assert judged is not None
        if not wanted.compares:
            judged.answer(objective, settings.batch_size, lambda _: None)
        return -objective.mean(module, judged, settings.batch_size)

    with objective.tapping(trained["student"]):
        trained["projections"] = objective.projections(trained["student"], rows, settings.seed)
        try:
            objective.teacher.to(device())
            history = train(
                trained,
                rows.student,
                lambda module, batch: objective(module, batch, rows, kept),
                settings,
                identity=identity,
                checkpoint=checkpoint,
                evaluate=None if judged is None else evaluate,
                prepare=(lambda: rows.answer(objective, settings.batch_size, answered)) if kept else None,
                progress=progress,
            )
        finally:
            objective.teacher.to("cpu")
    if wanted.alpha < 1 and rows.student.labels is None:
        history.notes.append("No labels were used: the student learnt from the teacher's answers alone.")
    return Distilled(student.with_module(trained["student"]), history)


def _rows(
    teacher: Model,
    student: Model,
    data: Any,
    limit: int | None,
    wanted: Distillation,
    shared: dict[str, Rows] | None,
) -> Rows:
    labels = wanted.alpha < 1
    if shared is None or not isinstance(data, Dataset) or not alike(teacher, student):
        return Rows(teacher, student, data, limit, labels=labels)
    key = f"{data.name} {limit} {labels}"
    if key not in shared:
        shared[key] = Rows(teacher, student, data, limit, labels=labels)
        shared[key].asked = {}
    return shared[key]


def _check(teacher: Model, student: Model, rows: Rows, wanted: Distillation) -> None:
    """Raise `InputError` where one cannot learn from the other."""
    batch = rows.student.batch([0])
    with torch.no_grad():
        given = losses.main_output(teacher.module(**rows.for_teacher(batch)))
        found = losses.main_output(student.module(**batch.inputs))
    if given.shape != found.shape:
        raise InputError(
            f"For one sample the teacher {teacher.name} gives an output of shape {list(given.shape)} and the "
            f"student {student.name} one of {list(found.shape)}.",
            "Take a student whose output is like the teacher's: the same classes, the same vector size.",
        )
    if wanted.augment != "none":
        if not any(tensor.dim() == 4 and tensor.is_floating_point() for tensor in batch.inputs.values()):
            raise InputError(
                "mirror_shift is for pictures, and the model takes none of shape (samples, channels, height, "
                "width).",
                'Use augment="none".',
            )
        if not rows.shared:
            raise InputError(
                "mirror_shift changes one picture for both models, and these prepare theirs differently.",
                'Use augment="none".',
            )
    by_token = wanted.hidden or wanted.relations or found.dim() > 2
    if by_token and (rows.teacher.lengths != rows.student.lengths).any():
        raise InputError(
            "Student and teacher are compared token by token, and the student's tokenizer cuts some texts "
            "otherwise than the teacher's.",
            "Leave hidden and relations at 0, or give both one tokenizer.",
        )


def _identity(teacher: Model, rows: Rows, judged: Rows | None, wanted: Distillation) -> str:
    seen = [each.digest() for held in (rows, judged) if held for each in (held.teacher, held.student)]
    return json.dumps([asdict(wanted), fingerprint(teacher.module), seen])
