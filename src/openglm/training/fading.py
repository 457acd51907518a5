"""Tokens that matter little fade from a network while it learns, as a program will drop them.

Behind a block a token's weight in all later attention is multiplied by sigmoid((importance - threshold)
/ temperature), importance being the attention that the token received in that block, in shares of the
mean. At 0 that is what a network computes from which the token is gone. The thresholds learn with the
network, held to a share of tokens that may stay (Learned Token Pruning: Kim et al. 2022). From some rows
nothing fades, so that the network still answers well where a program drops none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from openglm.dynamic.cutting import IMPORTANCE, STATES, THRESHOLDS
from openglm.errors import InputError
from openglm.training.exits import additive_mask
from openglm.training.losses import main_output

ATTRIBUTE = "fading"
TEMPERATURE = 0.05
START = 0.1
"""Of the mean: what thresholds begin with. Hardly a token is below it."""
PACE = 100.0
"""How many times faster than weights thresholds learn."""
WHOLE = 0.5
"""The share of rows that keep all their tokens while the network learns: it is to answer either way."""
PULL = 10.0
"""Weight of the squared share of tokens that stay beyond the one allowed."""


class Fading(nn.Module):
    """What hangs on the blocks of an encoder, by hooks, for tokens to fade.

    In evaluation mode nothing fades: beside its own outputs the module gives the importances, (rows,
    tokens) each, for the gates of a program to decide by, and the states of these blocks, (rows, tokens,
    width), to cut the graph at.
    """

    def __init__(self, count: int, keep: float) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.full((count,), START / PACE))
        self.keep = keep
        self._present: list[torch.Tensor] = []
        self._whole: list[torch.Tensor] = []
        self._attention: list[torch.Tensor] = []
        self._importances: list[torch.Tensor] = []
        self._states: list[torch.Tensor] = []
        self._fade: list[torch.Tensor] = []
        self._shares: list[torch.Tensor] = []

    @property
    def thresholds(self) -> torch.Tensor:
        """The least importance to stay with, in shares of the mean, (blocks,)."""
        return self.raw * PACE

    def notes(self) -> dict[str, str]:
        """What the graph carries."""
        return {THRESHOLDS: json.dumps([round(value, 6) for value in self.thresholds.tolist()])}

    def penalty(self) -> torch.Tensor:
        """How far the tokens that stayed in the last run, of rows that fade, are beyond the share allowed."""
        share = torch.stack(self._shares).mean()
        self._shares.clear()
        return PULL * functional.relu(share - self.keep).square()

    def begin(self, module: nn.Module, inputs: Any) -> None:
        """A hook before the whole module."""
        self._shares.clear()
        self._forget()

    def _forget(self) -> None:
        """Let go of what a run left, but for what `penalty` reads."""
        for kept in (
            self._present,
            self._whole,
            self._attention,
            self._importances,
            self._states,
            self._fade,
        ):
            kept.clear()

    def mask(self, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A hook before every block: its additive mask (rows, 1, 1, tokens) with what has faded."""

        def faded(value: Any) -> Any:
            if not additive_mask(value):
                return value
            if not self._present:
                self._present.append((value[:, 0, 0] == 0).to(value.dtype))
                if self.training:
                    self._whole.append(torch.rand(len(value), 1, device=value.device) < WHOLE)
            return value + self._fade[0][:, None, None, :] if self._fade else value

        found = tuple(map(faded, inputs)), {key: faded(value) for key, value in named.items()}
        if not self._present:
            raise InputError(
                "The blocks of this model take no additive mask of tokens.",
                "Token pruning suits encoders of transformers, with plain attention.",
            )
        return found

    def attend(self, holder: nn.Module, inputs: Any, output: Any) -> None:
        """A hook of a block's attention, whose weights are (rows, heads, queries, keys)."""
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, torch.Tensor) or weights.dim() != 4:
            raise InputError(
                "The attention of this model does not tell its weights.",
                "Token pruning suits encoders of transformers, with plain attention.",
            )
        self._attention[:] = [weights]

    def judge(self, place: int, block: nn.Module, inputs: Any, output: Any) -> None:
        """A hook of the block of the threshold at `place`: how much attention each token received."""
        self._states.append(main_output(output))
        present = self._present[0]
        if self._fade:
            present = present * self._fade[0].exp()
        count = present.sum(1, keepdim=True)
        weights = self._attention.pop().mean(1)
        importance = (weights * present[:, :, None]).sum(1) / count
        self._importances.append(importance)
        if not self.training:
            return
        mean = (importance * present).sum(1, keepdim=True) / count
        fade = functional.logsigmoid((importance / mean - self.thresholds[place]) / TEMPERATURE)
        fade = torch.cat([torch.zeros_like(fade[:, :1]), fade[:, 1:]], 1)  # the answer is read from the first
        fade = fade.masked_fill(self._whole[0], 0.0)
        self._fade[:] = [fade if not self._fade else self._fade[0] + fade]
        there = self._present[0].masked_fill(self._whole[0], 0.0)
        self._shares.append((self._fade[0].exp() * there).sum() / there.sum().clamp(min=1))

    def end(self, module: nn.Module, inputs: Any, output: Any) -> tuple[torch.Tensor, ...]:
        """A hook of the whole module."""
        own = output if isinstance(output, tuple) else (main_output(output),)
        found = (*own, *self._importances, *self._states)
        self._forget()
        return found


def attach(module: nn.Module, blocks: Sequence[str], after: Sequence[tuple[str, str]], keep: float) -> None:
    """Let tokens fade behind the blocks `after`, (block, what computes its attention), in place.

    `blocks` are all blocks of the module.
    """
    fading = Fading(len(after), keep)
    module.register_forward_pre_hook(fading.begin)
    for path in blocks:
        module.get_submodule(path).register_forward_pre_hook(fading.mask, with_kwargs=True)
    for place, (path, holder) in enumerate(after):
        module.get_submodule(holder).register_forward_hook(fading.attend)
        module.get_submodule(path).register_forward_hook(partial(fading.judge, place))
    module.add_module(ATTRIBUTE, fading)
    module.register_forward_hook(fading.end)
    names = tuple(f"{kind}{place + 1}" for kind in (IMPORTANCE, STATES) for place in range(len(after)))
    module.extra_outputs = (*getattr(module, "extra_outputs", ()), *names)  # type: ignore[assignment]
    module.graph_notes = fading.notes  # type: ignore[assignment]


def of(module: nn.Module) -> Fading | None:
    """What lets a module's tokens fade, if anything does."""
    found = getattr(module, ATTRIBUTE, None)
    return found if isinstance(found, Fading) else None
