"""Inputs get shorter from layer to layer while a network learns, as a program will shorten them.

In a layer tokens are ranked by the attention that they receive there; how many of them stay is drawn anew
for every row and every such layer, so that the network learns to answer at any length, and how many are to
stay can be settled afterwards (LengthDrop, in Length-Adaptive Transformer: Kim and Cho 2021). Some rows
keep all, so that the network still answers well where a program drops none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from openglm.dynamic.cutting import IMPORTANCE, STATES
from openglm.errors import InputError
from openglm.training import exits
from openglm.training.exits import ExitHead, additive_mask
from openglm.training.losses import main_output

ATTRIBUTE = "shortening"
WHOLE = 0.25
"""The share of rows that keep all their tokens while the network learns: it is to answer either way."""


class Shortening(nn.Module):
    """What hangs on the blocks of an encoder, by hooks, for tokens to be dropped.

    In evaluation mode none is. Beside its own outputs the module gives the importances, (rows, tokens) each,
    for the gates of a program to decide by, and what these layers' attention gives, (rows, tokens, width),
    to cut the graph at: but for attention, what a block computes for a token is that token's affair, so that
    the rest of the block need not run for those that go.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self._present: list[torch.Tensor] = []
        self._whole: list[torch.Tensor] = []
        self._importances: list[torch.Tensor] = []
        self._states: list[torch.Tensor] = []

    def begin(self, module: nn.Module, inputs: Any) -> None:
        """A hook before the whole module."""
        for kept in (self._present, self._whole, self._importances, self._states):
            kept.clear()

    def mask(self, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A hook before every block: its additive mask (rows, 1, 1, tokens) without what was dropped."""

        def shortened(value: Any) -> Any:
            if not additive_mask(value):
                return value
            if not self._present:
                self._present.append(value[:, 0, 0] == 0)
                if self.training:
                    self._whole.append(torch.rand(len(value), 1, device=value.device) < WHOLE)
            if not self.training:
                return value
            return value.masked_fill(~self._present[0][:, None, None], torch.finfo(value.dtype).min)

        found = tuple(map(shortened, inputs)), {key: shortened(value) for key, value in named.items()}
        if not self._present:
            raise InputError(
                "The blocks of this model take no additive mask of tokens.",
                "Token pruning suits encoders of transformers, with plain attention.",
            )
        return found

    def attend(self, holder: nn.Module, inputs: Any, output: Any) -> None:
        """A hook of a layer's attention, whose weights are (rows, heads, queries, keys)."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, torch.Tensor) or weights.dim() != 4:
            raise InputError(
                "The attention of this model does not tell its weights.",
                "Token pruning suits encoders of transformers, with plain attention.",
            )
        present = self._present[0]
        asking = present.to(weights.dtype)
        importance = (weights.mean(1) * asking[:, :, None]).sum(1) / asking.sum(1, keepdim=True)
        self._importances.append(importance)
        self._states.append(main_output(output))
        if self.training:
            stays = self._drawn(importance, present) | self._whole[0]
            self._present[0] = present & stays

    def _drawn(self, importance: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The tokens that stay, (rows, tokens): the most important, and the first, which is answered from."""
        ranked = importance.detach().masked_fill(~present, -1.0)
        ranked[:, 0] = torch.inf
        rank = ranked.argsort(dim=1, descending=True, stable=True).argsort(1)
        spare = (present.sum(1, keepdim=True) - self.least).clamp(min=0)
        return rank < self.least + torch.rand(len(rank), 1, device=rank.device) * spare

    def narrow(self, head: ExitHead, block: nn.Module, inputs: Any, output: Any) -> None:
        """A hook of a block in which tokens are dropped, for the exit behind it."""
        if self.training:
            head.narrow(self._present[0])

    def end(self, module: nn.Module, inputs: Any, output: Any) -> tuple[torch.Tensor, ...]:
        """A hook of the whole module."""
        own = output if isinstance(output, tuple) else (main_output(output),)
        found = (*own, *self._importances, *self._states)
        self.begin(module, inputs)
        return found


def attach(module: nn.Module, blocks: Sequence[str], attention: Sequence[str], least: int) -> None:
    """Let tokens be dropped where what computes `attention` is, in place, but for `least` of them.

    `blocks` are all blocks of the module.
    """
    shortening = Shortening(least)
    module.register_forward_pre_hook(shortening.begin)
    for path in blocks:
        module.get_submodule(path).register_forward_pre_hook(shortening.mask, with_kwargs=True)
    for path in attention:
        module.get_submodule(path).register_forward_hook(shortening.attend)
    for path, head in exits.by_layer(module).items():
        if any(inner.startswith(f"{path}.") for inner in attention):
            module.get_submodule(path).register_forward_hook(partial(shortening.narrow, head))
    module.add_module(ATTRIBUTE, shortening)
    module.register_forward_hook(shortening.end)
    names = tuple(f"{kind}{place + 1}" for kind in (IMPORTANCE, STATES) for place in range(len(attention)))
    module.extra_outputs = (*getattr(module, "extra_outputs", ()), *names)  # type: ignore[assignment]


def of(module: nn.Module) -> Shortening | None:
    """What lets a module's tokens be dropped, if anything does."""
    found = getattr(module, ATTRIBUTE, None)
    return found if isinstance(found, Shortening) else None
