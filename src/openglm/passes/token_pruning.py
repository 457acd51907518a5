"""Token pruning: tokens that receive little attention go on to no further layer.

How much attention a token receives says how much it matters (PoWER-BERT: Goyal et al. 2020). In the
`distil` that follows the network learns to answer whatever number of tokens stays (Length-Adaptive
Transformer: Kim and Cho 2021). The pass `program` then cuts the graph behind those layers' attention, so
that what runs next gets shorter inputs, and settles on data how many tokens stay.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Annotated, ClassVar

from pydantic import Field

from openglm.dynamic.gates.tokens import LEAST
from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

DEPTH = 3
"""Tokens are dropped behind the first of so many parts of the blocks, if nothing is said. Dropped sooner,
as many of them cost several times as much: what a token is worth does not show at once. And each further cut
takes a little time."""


class TokenPruning(ModulePass):
    """Let tokens be dropped in blocks of a transformer encoder, behind their attention.

    Raises `InputError` for a model that has none, or whose attention does not tell its weights.
    """

    scheme: ClassVar[str] = "token_pruning"
    needs_calibration: ClassVar[bool] = True

    least: int = Field(default=LEAST, ge=1)
    """Tokens of an input that training keeps in any case."""
    after: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """The blocks, counted from 0; if not given, the one behind the first third."""

    @property
    def code(self) -> str:
        return f"{self.scheme}_{self.least}"

    def apply(self, model: Model, context: Context) -> Adapted:
        import torch

        from openglm.passes.structure.blocks import blocks, no_blocks
        from openglm.passes.structure.moments import tensors
        from openglm.training import shortening

        module = deepcopy(model.module).eval()
        if shortening.of(module) is not None:
            raise InputError(f"{model.name} drops tokens already.", "Put token_pruning into a recipe once.")
        found = blocks(module)
        if len(found) < 2 or any(block.attention is None for block in found):
            raise no_blocks(model.name)
        after = self.after
        if after is None:
            after = (len(found) // DEPTH,)
        if max(after) >= len(found) - 1:
            raise InputError(
                f"Behind block {max(after)} of {model.name} there is no layer to spare.",
                f"Name blocks from 0 to {len(found) - 2}.",
            )
        places = [
            attention.holder
            for index in sorted(set(after))
            if (attention := found[index].attention) is not None
        ]
        shortening.attach(module, [block.name for block in found], places, self.least)
        batch = next(iter(context.calibration()), None) if context.calibration is not None else None
        if batch is not None:  # what cannot be done is to be known before a training
            with torch.no_grad():
                module(**tensors(batch))
        words = ", ".join(str(index) for index in sorted(set(after)))
        return Adapted(model.with_module(module), True, (f"Tokens may be dropped behind blocks {words}.",))
