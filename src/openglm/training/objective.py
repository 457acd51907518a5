"""What a student is trained for: the teacher's answers, the labels, and what layers of both give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from openglm.data import open_data
from openglm.errors import InputError
from openglm.model.model import Model
from openglm.training import exits, losses
from openglm.training.augmentation import mirror_shift
from openglm.training.loop import device
from openglm.training.samples import Batch, Samples

Pair = tuple[str, str]
Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Distillation:
    """What a student is trained for; see `distil`, whose arguments these are."""

    temperature: float = 3.0
    alpha: float = 0.7
    hidden: float = 0.0
    relations: float = 0.0
    hidden_pairs: Sequence[Pair] = ()
    relation_pairs: Sequence[tuple[Triple, Triple]] = ()
    augment: Literal["none", "mirror_shift"] = "none"

    @property
    def compares(self) -> bool:
        """Whether layers are compared, for which the teacher has to run each time."""
        return bool(self.hidden or self.relations)

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"The temperature is {self.temperature}.", "Give a positive number.")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is {self.alpha}.", "Give the teacher's share of the loss, from 0 to 1.")
        for name, pairs in (("hidden", self.hidden_pairs), ("relations", self.relation_pairs)):
            weight = getattr(self, name)
            if not (weight >= 0 and math.isfinite(weight)):
                raise InputError(f"The weight of the loss '{name}' is {weight}.", "Give 0 or more.")
            if weight and not pairs:
                raise InputError(
                    f"The loss '{name}' compares layers, and none are named.",
                    "Name pairs of layers, or distil by a recipe, whose pass 'distil' finds them.",
                )


class Rows:
    """A data set as both models see it."""

    def __init__(self, teacher: Model, student: Model, data: Any, limit: int | None, *, labels: bool) -> None:
        dataset = open_data(data)
        self.shared = alike(teacher, student)
        # Where there is no processor, the teacher's graph says what is taken; the student's need not be made.
        inputs = Samples(teacher if self.shared else student, dataset, limit=limit, labels=labels)
        self.student = inputs
        self.teacher = inputs if self.shared else Samples(teacher, dataset, limit=limit, labels=False)
        self.answers: dict[int, torch.Tensor] = {}
        """Of all rows, by the size of the batches that the teacher had."""
        self.asked: dict[bytes, torch.Tensor] | None = None
        """Of some batches, by their rows' indices, where several trainings share these rows: what a teacher
        says of a row depends a little on its batch, and a training may not depend on those before it."""

    def for_teacher(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.shared:
            return batch.inputs
        return self.teacher.batch(batch.indices.numpy()).to(device()).inputs

    def answer(self, objective: Objective, size: int, tell: Callable[[float], None]) -> None:
        """Let the teacher answer every row, where its answers are short enough to keep; `tell` is told
        which share is done."""
        if size in self.answers:
            return
        every: torch.Tensor | None = None
        done = 0
        for batch in self.teacher.in_order(size):
            found = objective.asked(batch.to(device()).inputs).cpu()
            if found.dim() > 2:
                return
            if every is None:
                every = torch.empty(len(self.teacher), *found.shape[1:], dtype=found.dtype)
            every[batch.indices] = found
            done += len(found)
            tell(done / len(self.teacher))
        if every is not None:
            self.answers[size] = every

    def answered(self, objective: Objective, batch: Batch) -> torch.Tensor:
        """What the teacher says of a batch, asked once for it."""
        key = batch.indices.numpy().tobytes()
        if self.asked is not None and key in self.asked:
            return self.asked[key].to(device())
        found = objective.asked(self.for_teacher(batch))
        if self.asked is not None and found.dim() == 2:
            self.asked[key] = found.cpu()
        return found


def alike(teacher: Model, student: Model) -> bool:
    """Whether both take the same inputs."""
    return teacher.processor is student.processor or teacher.processor == student.processor


class Objective:
    """The loss of a batch."""

    def __init__(self, teacher: Model, task: str, wanted: Distillation) -> None:
        self.teacher = teacher.module
        self.wanted = wanted
        self.logits = task.endswith("classification") or task == "text-generation"
        self.seen: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
        """Outputs of the layers compared, by name, of the student and of the teacher."""

    @contextmanager
    def tapping(self, student: nn.Module) -> Iterator[None]:
        """While open, a call of either module leaves its layers' outputs in `seen`."""
        pairs = self._compared()
        handles = []
        try:
            for side, (module, who) in enumerate(((student, "student"), (self.teacher, "teacher"))):
                for name in dict.fromkeys(pair[side] for pair in pairs):
                    handles.append(_layer(module, name, who).register_forward_hook(self._keep(side, name)))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for side_seen in self.seen:
                side_seen.clear()

    def _keep(self, side: int, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.seen[side][name] = losses.main_output(output)

        return keep

    def projections(self, student: nn.Module, rows: Rows, seed: int) -> nn.ModuleList:
        """For each hidden pair what brings the student's width to the teacher's; to be called while tapping.

        Raises `InputError` where a layer that is to be compared gives nothing for each token.
        """
        batch = rows.student.batch([0])
        with torch.no_grad():
            student(**batch.inputs)
            self.asked(rows.for_teacher(batch))
        for pair in self._compared():
            for side, name in enumerate(pair):
                found = self.seen[side].get(name)
                if found is None or found.dim() != 3:
                    what = "is not called" if found is None else f"gives a tensor {list(found.shape)}"
                    raise InputError(
                        f"The layer '{name}' {what}; what is compared is (samples, tokens, width).",
                        "Name blocks of a transformer, or their query, key and value layers.",
                    )
        made = nn.ModuleList()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            for first, second in self.wanted.hidden_pairs if self.wanted.hidden else ():
                widths = self.seen[0][first].shape[-1], self.seen[1][second].shape[-1]
                made.append(nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False))
        return made

    def _compared(self) -> list[Pair]:
        """The layers that are compared, of the student and of the teacher."""
        wanted = self.wanted
        pairs = [*wanted.hidden_pairs] if wanted.hidden else []
        for triples in wanted.relation_pairs if wanted.relations else ():
            pairs += zip(*triples, strict=True)
        return pairs

    def asked(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The teacher's answer."""
        with torch.no_grad():
            return losses.main_output(self.teacher(**inputs))

    def __call__(
        self, trained: nn.Module, batch: Batch, rows: Rows, kept: int | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss, and what it consists of; `kept` is the size of batches by which all answers are kept."""
        wanted = self.wanted
        changed = wanted.augment == "mirror_shift" and trained.training
        if changed:
            batch = Batch(mirror_shift(batch.inputs), batch.labels, batch.indices)
        if changed or wanted.compares:
            answer = self.asked(rows.for_teacher(batch))
        elif kept in rows.answers:
            answer = rows.answers[kept][batch.indices].to(device())
        else:
            answer = rows.answered(self, batch)
        assert isinstance(trained, nn.ModuleDict)
        student = trained["student"]
        found = student(**batch.inputs)
        output = losses.main_output(found)
        mask = batch.inputs.get("attention_mask")
        total, parts = self._answered(losses.kept(output, mask), losses.kept(answer, mask), batch)
        if count := exits.count(student):
            # Each learns from the end, and counts as its place does (PABEE: Zhou et al. 2020).
            learnt = [
                (place + 1) * self._answered(given, output.detach(), batch)[0]
                for place, given in enumerate(found[1 : count + 1])
            ]
            parts["exits"] = torch.stack(learnt).sum() / sum(range(1, count + 2))
            total = total * (count + 1) / sum(range(1, count + 2)) + parts["exits"]
        if wanted.hidden:
            projections = trained["projections"]
            assert isinstance(projections, nn.ModuleList)
            parts["hidden"] = self._mean(
                losses.hidden(project(self.seen[0][first]), self.seen[1][second], mask)
                for project, (first, second) in zip(projections, wanted.hidden_pairs, strict=True)
            )
            total = total + wanted.hidden * parts["hidden"]
        if wanted.relations:
            parts["relations"] = self._mean(
                losses.relations(*self._pair(first, second), mask=mask)
                for triples in wanted.relation_pairs
                for first, second in zip(*triples, strict=True)
            )
            total = total + wanted.relations * parts["relations"]
        return total, {name: float(part.detach()) for name, part in parts.items()}

    def _answered(
        self, output: torch.Tensor, answer: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of an answer beside the one that is learnt from, and the labels where there are any."""
        if self.logits and output.shape[-1] > 1:
            total = losses.soft(output, answer, self.wanted.temperature)
        else:
            total = losses.response(output, answer)
        parts = {"teacher": total}
        if batch.labels is not None:
            parts["labels"] = losses.hard(output, batch.labels)
            total = self.wanted.alpha * total + (1 - self.wanted.alpha) * parts["labels"]
        return total, parts

    def _pair(self, first: str, second: str) -> tuple[torch.Tensor, torch.Tensor, int]:
        student, teacher = self.seen[0][first], self.seen[1][second]
        return student, teacher, losses.relation_heads(student.shape[-1], teacher.shape[-1])

    @staticmethod
    def _mean(values: Iterator[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(values)).mean()

    def mean(self, trained: nn.Module, rows: Rows, size: int) -> float:
        """The mean loss over all rows."""
        total = 0.0
        for batch in rows.student.in_order(size):
            total += float(self(trained, batch.to(device()), rows, size)[0]) * len(batch.indices)
        return total / len(rows.student)


def _layer(module: nn.Module, name: str, who: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise InputError(
            f"The {who} has no layer '{name}'.", "Name layers as named_modules() does."
        ) from error
