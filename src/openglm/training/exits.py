"""Exits: heads after some layers of a module, each of which answers as the module's end does.

They hang on the module by forward hooks, so that it stays what it is: a pass or an exporter that
knows nothing of exits sees the module with more outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from openglm.dynamic.cutting import EXIT
from openglm.training.losses import main_output

ATTRIBUTE = "exits"
SHARE = 0.3
"""Of what exits would teach the layers before them: with all of it the end's answers get worse."""
RATE = 3e-3
"""What heads learn at where the network learns at the rate that suits it, which has learnt already."""
NARROW = 4
"""How many times fewer numbers a head makes than the layer gives. For one input a layer takes as long as its
weights take to be read: a head as wide as the layer would be a sixth of a layer of an encoder."""
HALVINGS, CHANNELS = 3, 64
"""A head of pictures halves height and width so often, with at least so many channels. The mean of what early
layers see says little: two thirds through a ResNet-20 for CIFAR-10, whose end was right on 78 %, a head that
reads the mean alone was right on 52 % after 600 steps, and this one on 73 %."""


class ExitHead(nn.Module):
    """An answer from what a layer gives: tokens (rows, tokens, width), of which the first and the mean are
    read, or pictures (rows, channels, height, width), which a few separable convolutions make smaller before
    they are averaged.

    The mean is over the tokens that the layer attends to, by its additive mask (rows, 1, 1, tokens): none of
    padding, and none that was dropped.
    """

    def __init__(self, width: int, outputs: int, *, tokens: bool) -> None:
        super().__init__()
        self.pace = 1.0
        """How many times faster than the network it learns."""
        narrow = -(-width // NARROW)
        if not tokens:
            narrow = max(CHANNELS, narrow)
        self.hidden = nn.Linear(2 * width, narrow) if tokens else _smaller(width, narrow)
        self.tokens = tokens
        self.answer = nn.Linear(narrow, outputs)
        self._seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def keep(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        """A forward hook of the layer before."""
        given = main_output(output)
        if self.training:
            given = SHARE * given + (1 - SHARE) * given.detach()
        mask = next(filter(additive_mask, (*inputs, *named.values())), None) if given.dim() == 3 else None
        self._seen[:] = [(given, mask)]

    def narrow(self, left: torch.Tensor) -> None:
        """Read of what was kept the tokens that are `left` alone, (rows, tokens)."""
        given, mask = self._seen[0]
        if mask is not None:
            mask = mask.masked_fill(~left[:, None, None], torch.finfo(mask.dtype).min)
        self._seen[0] = given, mask

    def forward(self) -> torch.Tensor:
        """The answer to what was kept, (rows, outputs)."""
        given, mask = self._seen.pop()
        if not self.tokens:
            vector = self.hidden(given).mean((2, 3))
        else:
            mean = given.mean(1) if mask is None else (mask[:, 0, :1].softmax(-1) @ given)[:, 0]
            vector = torch.tanh(self.hidden(torch.cat([given[:, 0], mean], 1)))
        found: torch.Tensor = self.answer(vector)
        return found


def _smaller(width: int, channels: int) -> nn.Sequential:
    """Depthwise separable convolutions, each of which halves height and width."""
    layers: list[nn.Module] = []
    for given in (width, *[channels] * (HALVINGS - 1)):
        layers += [
            nn.Conv2d(given, given, 3, 2, 1, groups=given, bias=False),
            nn.Conv2d(given, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


def additive_mask(value: Any) -> bool:
    """Whether this is what a block adds to its attention: (rows, 1, 1, tokens), 0 where a token is there."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 4


class Exits(nn.Module):
    """The heads of a module, in the order that its layers run."""

    def __init__(self, heads: Mapping[str, ExitHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads.values())
        self.by_layer = dict(heads)
        """The heads by the layer that each reads."""

    def answers(self, module: nn.Module, inputs: Any, output: Any) -> tuple[torch.Tensor, ...]:
        """A forward hook of the whole module: its own output first, then the exits'."""
        return (main_output(output), *(head() for head in self.heads))

    def forward(self, given: Any) -> Any:
        """Nothing: a Sequential calls all that is put into it."""
        return given


def attach(module: nn.Module, heads: Mapping[str, ExitHead]) -> None:
    """Put exits on a module, in place: heads by the path of the layer that each reads."""
    exits = Exits(heads).train(module.training)
    for path, head in heads.items():
        module.get_submodule(path).register_forward_hook(head.keep, with_kwargs=True)
    module.add_module(ATTRIBUTE, exits)
    module.register_forward_hook(exits.answers)
    module.extra_outputs = tuple(f"{EXIT}{place + 1}" for place in range(len(heads)))  # type: ignore[assignment]


def count(module: nn.Module) -> int:
    """How many exits a module has."""
    return len(by_layer(module))


def by_layer(module: nn.Module) -> dict[str, ExitHead]:
    """A module's exits by the path of the layer that each reads."""
    exits = getattr(module, ATTRIBUTE, None)
    return exits.by_layer if isinstance(exits, Exits) else {}
