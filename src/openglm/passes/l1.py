"""Unstructured pruning with training: an L1 term draws weights to zero while the model learns to do without.

After each update the magnitudes of weights shrink by the learning rate times the term's strength, and
what is below a threshold counts as zero in the products: proximal gradient descent (ISTA; Parikh and
Boyd, 2014, "Proximal Algorithms", 4.2), which makes exact zeros where the term's gradient makes none.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass
from openglm.passes.magnitude import PATTERN, check_pattern, kept_of, left, prunable

if TYPE_CHECKING:
    from torch import nn

    from openglm.training.loop import Progress
    from openglm.training.sparse_linear import SparseLinear

RAMP = 0.75
"""Share of the steps in which the sparsity reaches its target; the others repair what it cost."""
EVERY = 10
"""Steps between two adjustments of the thresholds."""


class L1Pruning(ModulePass):
    """Zeros in linear layers, found while the model learns from its teacher and from labels.

    Convolutions stay dense. As with `magnitude_pruning`, the model is smaller where it is stored
    compressed, and no faster.
    """

    scheme: ClassVar[str] = "l1_pruning"
    needs_training: ClassVar[bool] = True

    threshold: float = Field(default=1e-3, gt=0)
    """Weights below this magnitude are zeros. With a sparsity, each layer's follows from that instead."""
    strength: float = Field(default=0.1, ge=0)
    """Of the L1 term: a step takes this times its learning rate off each magnitude. An update of AdamW is
    about the learning rate, so at 1 no weight would resist."""
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    """Share of each layer's weights that end as zeros, reached gradually; none: what the term brings."""
    pattern: str | None = Field(default=None, pattern=PATTERN)
    """"N:M": of every M consecutive weights along a layer's inputs, no more than N stay."""
    steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_pattern(self.pattern, self.sparsity)
        return self

    @property
    def code(self) -> str:
        parts = [self.scheme, f"{self.strength:g}"]
        parts += [f"to_{self.sparsity:g}"] if self.sparsity is not None else []
        parts += [self.pattern.replace(":", "of")] if self.pattern is not None else []
        return "_".join(parts)

    def apply(self, model: Model, context: Context) -> Adapted:
        from torch import nn

        from openglm.training.sparse_linear import SparseLinear, exchange

        if context.training is None:
            raise InputError(
                "L1 pruning trains the model and needs data for it.", "Give --data, or prune by magnitude."
            )
        module = copy.deepcopy(model.module)
        pattern = None if self.pattern is None else kept_of(self.pattern)
        layers, notes = prunable(module)
        linears = {name: layer for name, layer in layers.items() if type(layer) is nn.Linear}
        notes += left([name for name in layers if name not in linears], "weights that are no linear layer's")
        if pattern is not None:
            odd = [name for name, layer in linears.items() if layer.in_features % pattern[1]]
            linears = {name: layer for name, layer in linears.items() if name not in odd}
            notes += left(odd, f"a number of inputs that is no multiple of {pattern[1]}")
        if not linears:
            return Adapted(model, False, (*notes, "There is no linear layer to prune."))
        start = 0.0 if self.sparsity is not None else self.threshold
        sparse = {
            layer: SparseLinear.from_linear(layer, threshold=start, pattern=pattern)
            for layer in linears.values()
        }
        exchange(module, sparse)
        self._train(model, module, list(sparse.values()), context)
        plain = {layer: layer.to_linear() for layer in sparse.values()}
        exchange(module, plain)
        total = sum(layer.weight.numel() for layer in plain.values())
        zeros = sum(int((layer.weight == 0).sum()) for layer in plain.values())
        done = (
            f"{zeros / total:.1%} of the weights of {len(plain)} layers are zeros after {self.steps} steps: "
            "the file is smaller where it stores them compressed (sparse_storage), the speed that of the "
            "dense model."
        )
        return Adapted(model.with_module(module), True, (*notes, done))

    def _train(self, model: Model, module: nn.Module, layers: list[SparseLinear], context: Context) -> None:
        """Train `module`, in which `layers` are, in place."""
        from torch import nn

        from openglm.training.checkpoint import fingerprint
        from openglm.training.loop import Settings, device, train
        from openglm.training.objective import Distillation, Objective, Rows
        from openglm.training.sparse_linear import shrink

        teacher = context.teacher or model
        # Decay would shrink weights that the L1 term shrinks already.
        settings = Settings(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            seed=self.seed,
        )
        rows = Rows(teacher, model, context.training, None, labels=True)
        objective = Objective(teacher, model.task, Distillation())

        def tell(seen: Progress) -> None:
            context.trained(seen.step / seen.total, f"loss {seen.loss:.3g}")

        def prune(step: int, _: nn.Module) -> None:
            amount = settings.rate(step - 1) * self.strength
            for layer in layers:
                shrink(layer.weight, amount)
            if self.sparsity is not None and (step % EVERY == 0 or step == self.steps):
                for layer in layers:
                    layer.prune_to(gradual(self.sparsity, step / (RAMP * self.steps)))

        identity = ""
        if context.checkpoint is not None:
            data = [rows.teacher.digest(), rows.student.digest()]
            identity = json.dumps([self.to_recipe(), fingerprint(teacher.module), data])
        try:
            objective.teacher.to(device())
            train(
                nn.ModuleDict({"student": module}),
                rows.student,
                lambda trained, batch: objective(trained, batch, rows),
                settings,
                identity=identity,
                checkpoint=context.checkpoint,
                on_step=prune,
                progress=tell,
            )
        finally:
            objective.teacher.to("cpu")


def gradual(target: float, share: float) -> float:
    """The sparsity after a share of the ramp: fast at first, then ever slower, up to the target.

    target * (1 - (1 - share)^3), the schedule of Zhu and Gupta, 2017 (arXiv:1710.01878), from zero.
    """
    return float(target * (1 - (1 - min(share, 1.0)) ** 3))
