"""Token pruning: tokens that receive little attention go on to no further layer.

How much attention a token receives says how much it matters (PoWER-BERT: Goyal et al. 2020); from which
share of the mean on it stays is learnt, layer by layer, in the `distil` that follows (Learned Token
Pruning: Kim et al. 2022). The pass `program` then cuts the graph behind those layers, so that what runs
next gets shorter inputs.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, ClassVar

from pydantic import Field

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

MOST = 3
"""Blocks that tokens are dropped behind, if not named: each is a cut, which costs a little time."""


class TokenPruning(ModulePass):
    """Let tokens be dropped behind blocks of a transformer encoder.

    Raises `InputError` for a model that has none, or whose attention does not tell its weights.
    """

    scheme: ClassVar[str] = "token_pruning"
    needs_calibration: ClassVar[bool] = True

    keep: float = Field(default=0.5, gt=0, lt=1)
    """The share of tokens, in the mean over inputs and over the blocks `after`, that training aims at."""
    after: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """The blocks, counted from 0; if not given, up to three, from the first on."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.keep:g}"

    def apply(self, model: Model, context: Context) -> Adapted:
        import torch

        from openglm.passes.structure.blocks import blocks, no_blocks
        from openglm.passes.structure.moments import tensors
        from openglm.training import fading

        module = deepcopy(model.module).eval()
        if fading.of(module) is not None:
            raise InputError(f"{model.name} drops tokens already.", "Put token_pruning into a recipe once.")
        found = blocks(module)
        if len(found) < 2 or any(block.attention is None for block in found):
            raise no_blocks(model.name)
        after = self.after
        if after is None:
            after = tuple(range(0, len(found) - 1, -(-(len(found) - 1) // MOST)))
        if max(after) >= len(found) - 1:
            raise InputError(
                f"Behind block {max(after)} of {model.name} there is no layer to spare.",
                f"Name blocks from 0 to {len(found) - 2}.",
            )
        places = [
            (found[index].name, attention.holder)
            for index in sorted(set(after))
            if (attention := found[index].attention) is not None
        ]
        fading.attach(module, [block.name for block in found], places, self.keep)
        batch = next(iter(context.calibration()), None) if context.calibration is not None else None
        if batch is not None:  # what cannot be done is to be known before a training
            with torch.no_grad():
                module(**tensors(batch))
        words = ", ".join(str(index) for index in sorted(set(after)))
        return Adapted(model.with_module(module), True, (f"Tokens may be dropped behind blocks {words}.",))
