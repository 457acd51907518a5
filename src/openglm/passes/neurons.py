"""Pruning of feed-forward neurons, with a least-squares repair of what follows them.

A neuron is a row of the first linear layer (of gate and up, where there are two) and a column of the
second, so that narrower dense layers are left, which every engine runs faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    import torch


class NeuronPruning(ModulePass):
    """Feed-forward layers of transformers with a share of their neurons."""

    scheme: ClassVar[str] = "neuron_pruning"
    needs_calibration: ClassVar[bool] = True

    keep: float = Field(gt=0, lt=1)
    """Share of the neurons that stay."""
    multiple: int = Field(default=16, ge=1)
    """The number that stays in a block is rounded to a multiple of this, which kernels like; never to 0."""
    importance: Literal["magnitude", "taylor", "activation"] = "activation"
    """What ranks neurons: the norm of their weights; the first-order change of the loss without them
    (Molchanov et al. 2019); their activations' norm times their outgoing weights' (Sun et al. 2023)."""
    scope: Literal["block", "global"] = "block"
    """Whether each block keeps that share, or the model, wherever neurons matter most relative to the
    mean of their block."""
    blocks: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Only these blocks, counted from 0 over the whole model; all otherwise."""
    repair: bool = True
    """Refit the second layer in least squares, so that on calibration data it gives from the neurons
    left what it gave from all."""

    @property
    def code(self) -> str:
        parts = [self.scheme, f"{self.keep:g}"]
        parts += [f"multiple_{self.multiple}"] if self.multiple != 16 else []
        parts += [self.importance] if self.importance != "activation" else []
        parts += ["global"] if self.scope == "global" else []
        parts += ["blocks", *map(str, self.blocks)] if self.blocks is not None else []
        parts += [] if self.repair else ["unrepaired"]
        return "_".join(parts)

    def apply(self, model: Model, context: Context) -> Adapted:
        """Raises `InputError` for a module without feed-forward layers that are known, and without data."""
        from openglm.passes.structure.blocks import prunable, prune_all
        from openglm.passes.structure.importance import calibration_of, scores

        needed = self.repair or self.importance != "magnitude"
        calibration = calibration_of(context, "Neuron pruning") if needed else None
        module = deepcopy(model.module).eval()
        found, notes = prunable(module, "feed_forward", self.blocks, model.name)
        layers = [(block.index, block.feed_forward) for block in found if block.feed_forward is not None]
        ranked = scores(module, [layer for _, layer in layers], self.importance, calibration, model.task)
        chosen = {}
        for (index, layer), score, count in zip(layers, ranked, self._counts(ranked), strict=True):
            if count == layer.neurons:
                notes.append(f"Block {index} keeps its {count} neurons.")
                continue
            best = score.argsort(descending=True, stable=True)[:count]
            chosen[layer.output] = (layer, best.sort().values)
        prune_all(module, chosen, model.module, calibration if self.repair else None)
        if chosen:
            before = sum(layer.neurons for _, layer in layers)
            lost = sum(layer.neurons - len(kept) for layer, kept in chosen.values())
            notes.insert(0, f"{before - lost} of {before} feed-forward neurons stay.")
        return Adapted(model.with_module(module), bool(chosen), tuple(notes))

    def _counts(self, ranked: Sequence[torch.Tensor]) -> list[int]:
        """How many neurons stay in each layer."""
        if self.scope == "block":
            return [rounded(self.keep * len(score), len(score), self.multiple) for score in ranked]
        import torch

        relative = torch.cat([score / score.mean().clamp_min(1e-30) for score in ranked])
        most = relative.argsort(descending=True, stable=True)[: round(self.keep * len(relative))]
        stays = torch.zeros(len(relative), dtype=torch.bool)
        stays[most] = True
        parts = torch.split(stays, [len(score) for score in ranked])
        return [rounded(int(part.sum()), len(part), self.multiple) for part in parts]


def rounded(count: float, width: int, multiple: int) -> int:
    """The multiple nearest to `count`, at least one and at most `width`."""
    return min(max(int(count / multiple + 0.5), 1) * multiple, width)
