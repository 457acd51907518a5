"""Knowledge distillation: the model, as earlier steps left it, learns to answer as the original does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    from torch import nn

    from openglm.passes.structure.blocks import Attention, Block
    from openglm.training.loop import Progress


class Distil(ModulePass):
    """Train on the teacher's answers, at a temperature, and on the labels (Hinton et al. 2015).

    `Context.teacher` is learnt from, on `Context.training`. The labels count where the data has
    them and the model is a classifier. Blocks of student and teacher are paired evenly by depth,
    the last with the last.
    """

    scheme: ClassVar[str] = "distil"
    needs_training: ClassVar[bool] = True

    temperature: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    alpha: float = Field(default=0.7, ge=0, le=1)
    """The teacher's share of the loss; the labels have the rest."""
    hidden: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the difference between what paired blocks give (TinyBERT: Jiao et al. 2020)."""
    relations: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the difference between how the last block's queries, keys and values relate
    (MiniLMv2: Wang et al. 2021)."""
    steps: int = Field(default=1000, ge=1)
    """Batches trained on."""
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Chosen by the kind of network if not given."""
    augment: Literal["none", "mirror_shift"] = "none"
    """Random mirroring and shifts of pictures."""
    seed: int = Field(default=0, ge=0)

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.steps}"

    def apply(self, model: Model, context: Context) -> Adapted:
        from openglm.training.distillation import default_rate, run
        from openglm.training.loop import Settings
        from openglm.training.objective import Distillation

        if context.training is None:
            raise InputError(
                "Distillation needs data to train on.", "Give training data; they need no labels."
            )
        if context.teacher is None:
            raise InputError("Distillation needs a teacher.", "Give the model before it was made smaller.")
        wanted = Distillation(
            temperature=self.temperature,
            alpha=self.alpha,
            hidden=self.hidden,
            relations=self.relations,
            hidden_pairs=_blocks(model, context.teacher) if self.hidden else (),
            relation_pairs=_attentions(model, context.teacher) if self.relations else (),
            augment=self.augment,
        )
        settings = Settings(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate or default_rate(context.teacher.module),
            seed=self.seed,
        )

        def tell(progress: Progress) -> None:
            context.trained(progress.step / progress.total, _words(progress))

        trained, history = run(
            context.teacher, model, context.training, wanted, settings,
            checkpoint=context.checkpoint, progress=tell, shared=context.shared,
        )  # fmt: skip
        return Adapted(trained, True, tuple(history.notes))


def _words(progress: Progress) -> str:
    if not progress.step:
        return f"the teacher has answered {progress.parts['answered']:.0%} of the samples"
    return f"step {progress.step} of {progress.total}, loss {progress.loss:.3g}"


def paired(students: int, teachers: int) -> list[tuple[int, int]]:
    """Indices of a student's blocks, each with that of a teacher's: evenly by depth, last with last."""
    return [(index, -(-(index + 1) * teachers // students) - 1) for index in range(students)]


def _matched(student: nn.Module, teacher: nn.Module) -> list[tuple[Block, Block]]:
    from openglm.passes.structure.blocks import blocks

    ours, theirs = blocks(student), blocks(teacher)
    if not ours or not theirs:
        raise InputError(
            "No transformer blocks were found to compare.", "Leave hidden and relations at 0 for this model."
        )
    return [(ours[first], theirs[second]) for first, second in paired(len(ours), len(theirs))]


def _blocks(student: Model, teacher: Model) -> list[tuple[str, str]]:
    return [(ours.name, theirs.name) for ours, theirs in _matched(student.module, teacher.module)]


def _attentions(student: Model, teacher: Model) -> list[tuple[tuple[str, str, str], tuple[str, str, str]]]:
    """The layers of query, key and value of the last blocks that have such."""
    for ours, theirs in reversed(_matched(student.module, teacher.module)):
        if ours.attention is not None and theirs.attention is not None:
            return [(_triple(ours.attention), _triple(theirs.attention))]
    raise InputError(
        "No attention with linear layers of query, key and value was found in both models.",
        "Leave relations at 0.",
    )


def _triple(attention: Attention) -> tuple[str, str, str]:
    query, key, value = attention.inputs
    return query, key, value
