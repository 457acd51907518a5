"""Pruning of attention heads, with a least-squares repair of the layer that joins them.

Most heads of a trained transformer can go (Michel et al. 2019, "Are sixteen heads really better than
one?"; Voita et al. 2019, "Analyzing multi-head self-attention"). What is left are narrower dense
layers and fewer products of queries with keys.
"""

from __future__ import annotations

from copy import deepcopy
from typing import ClassVar, Literal

from pydantic import Field

from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass


class HeadPruning(ModulePass):
    """Self-attention with a share of its heads; a head of keys and values goes with all it serves."""

    scheme: ClassVar[str] = "head_pruning"
    needs_calibration: ClassVar[bool] = True

    keep: float = Field(gt=0, lt=1)
    """Share of the heads that stay in each block, rounded; one at least."""
    importance: Literal["magnitude", "taylor", "activation"] = "activation"
    """What ranks heads: the norm of their weights; the first-order change of the loss without them
    (Michel et al. 2019); their outputs' norm times their outgoing weights' (Sun et al. 2023)."""
    blocks: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Only these blocks, counted from 0 over the whole model; all otherwise."""
    repair: bool = True
    """Refit the output layer in least squares, so that on calibration data it gives from the heads
    left what it gave from all."""

    @property
    def code(self) -> str:
        parts = [self.scheme, f"{self.keep:g}"]
        parts += [self.importance] if self.importance != "activation" else []
        parts += ["blocks", *map(str, self.blocks)] if self.blocks is not None else []
        parts += [] if self.repair else ["unrepaired"]
        return "_".join(parts)

    def apply(self, model: Model, context: Context) -> Adapted:
        """Raises `InputError` for a module without attention that is known, and without data."""
        from openglm.passes.structure.blocks import prunable, prune_all
        from openglm.passes.structure.importance import calibration_of, scores

        needed = self.repair or self.importance != "magnitude"
        calibration = calibration_of(context, "Head pruning") if needed else None
        module = deepcopy(model.module).eval()
        found, notes = prunable(module, "attention", self.blocks, model.name)
        layers = [(block.index, block.attention) for block in found if block.attention is not None]
        ranked = scores(module, [layer for _, layer in layers], self.importance, calibration, model.task)
        chosen = {}
        for (index, layer), score in zip(layers, ranked, strict=True):
            count = max(int(self.keep * layer.groups + 0.5), 1)
            if count == layer.groups:
                notes.append(f"Block {index} keeps its {layer.heads} heads.")
                continue
            best = score.argsort(descending=True, stable=True)[:count]
            chosen[layer.output] = (layer, best.sort().values)
            width = layer.heads // layer.groups * count * layer.head_size
            if width % 8:
                notes.append(f"Block {index} has heads of {width} features together, no multiple of 8.")
        prune_all(module, chosen, model.module, calibration if self.repair else None)
        if chosen:
            before = sum(layer.heads for _, layer in layers)
            lost = sum(
                layer.heads // layer.groups * (layer.groups - len(kept)) for layer, kept in chosen.values()
            )
            notes.insert(0, f"{before - lost} of {before} attention heads stay.")
        return Adapted(model.with_module(module), bool(chosen), tuple(notes))
