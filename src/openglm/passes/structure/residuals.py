"""Blocks of a network of convolutions that give pictures of the very shape that they take: any may go."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from torch import nn


class Residual(NamedTuple):
    """A block, and where it is."""

    container: nn.Sequential
    key: str
    block: nn.Module


def residuals(module: nn.Module) -> list[Residual]:
    """The blocks, in the order of the module: members of an `nn.Sequential` with several convolutions, which
    keep height and width, the last one giving as many channels as the first takes; of those that hold such
    blocks themselves, the inner ones."""
    found = [
        Residual(container, key, block)
        for container in module.modules()
        if isinstance(container, nn.Sequential)
        for key, block in container.named_children()
        if _keeps_shape([layer for layer in block.modules() if isinstance(layer, nn.Conv2d)])
    ]
    holders = {id(each.container) for each in found}
    return [each for each in found if not any(id(member) in holders for member in each.block.modules())]


def _keeps_shape(convolutions: Sequence[nn.Conv2d]) -> bool:
    return (
        len(convolutions) > 1
        and convolutions[0].in_channels == convolutions[-1].out_channels
        and all(_keeps_size(layer) for layer in convolutions)
    )


def _keeps_size(layer: nn.Conv2d) -> bool:
    if layer.padding == "same":
        return True
    reach = [(size - 1) * dilation for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    return layer.stride == (1, 1) and [2 * pad for pad in layer.padding if isinstance(pad, int)] == reach


class Pool:
    """The blocks of a whole network, any of which can be taken out and put back."""

    name = "the network"

    def __init__(self, found: Sequence[Residual]) -> None:
        self.positions: Sequence[Residual] = found

    def keep(self, indices: Collection[int]) -> None:
        """Leave the blocks with these indices, whichever were left before."""
        for index, (container, key, block) in enumerate(self.positions):
            container._modules[key] = block if index in indices else nn.Identity()
