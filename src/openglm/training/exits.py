"""Exits: heads after some layers of a module, each of which answers as the module's end does.

They hang on the module by forward hooks, so that it stays what it is: a pass or an exporter that
knows nothing of exits sees the module with more outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from openglm.dynamic.cutting import EXIT
from openglm.training.losses import main_output

ATTRIBUTE = "exits"


class ExitHead(nn.Module):
    """An answer from what a layer gives: tokens (rows, tokens, width), of which the first is read, as
    encoders' own heads do, or pictures (rows, channels, height, width), which are averaged."""

    def __init__(self, width: int, outputs: int, *, hidden: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width) if hidden else None
        self.answer = nn.Linear(width, outputs)
        self._seen: list[torch.Tensor] = []

    def keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook of the layer before."""
        self._seen[:] = [main_output(output)]

    def forward(self) -> torch.Tensor:
        """The answer to what was kept, (rows, outputs)."""
        given = self._seen.pop()
        vector = given[:, 0] if given.dim() == 3 else given.mean((2, 3))
        if self.hidden is not None:
            vector = torch.tanh(self.hidden(vector))
        found: torch.Tensor = self.answer(vector)
        return found


class Exits(nn.Module):
    """The heads of a module, in the order that its layers run."""

    def __init__(self, heads: Sequence[ExitHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def answers(self, module: nn.Module, inputs: Any, output: Any) -> tuple[torch.Tensor, ...]:
        """A forward hook of the whole module: its own output first, then the exits'."""
        return (main_output(output), *(head() for head in self.heads))

    def forward(self, given: Any) -> Any:
        """Nothing: a Sequential calls all that is put into it."""
        return given


def attach(module: nn.Module, heads: Mapping[str, ExitHead]) -> None:
    """Put exits on a module, in place: heads by the path of the layer that each reads."""
    exits = Exits(list(heads.values()))
    for path, head in heads.items():
        module.get_submodule(path).register_forward_hook(head.keep)
    module.add_module(ATTRIBUTE, exits)
    module.register_forward_hook(exits.answers)
    module.extra_outputs = tuple(f"{EXIT}{place + 1}" for place in range(len(heads)))  # type: ignore[assignment]


def count(module: nn.Module) -> int:
    """How many exits a module has."""
    exits = getattr(module, ATTRIBUTE, None)
    return len(exits.heads) if isinstance(exits, Exits) else 0
