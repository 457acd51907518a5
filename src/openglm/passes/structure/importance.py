"""How much each head or neuron matters: scores to prune by, none of which needs labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from openglm.errors import InputError
from openglm.passes.contract import Context
from openglm.passes.structure.blocks import Attention, Calibration, FeedForward, not_run
from openglm.passes.structure.moments import plain_kernels, tensors
from openglm.training.losses import main_output

Importance = Literal["magnitude", "taylor", "activation"]
Batches = Iterable[Mapping[str, np.ndarray]]
SEED = 0


def scores(
    module: nn.Module,
    parts: Sequence[Attention | FeedForward],
    importance: Importance,
    calibration: Calibration | None,
    task: str = "generic",
) -> list[torch.Tensor]:
    """A score for each group of each part, (groups,) in float64: the higher, the more it matters.

    "magnitude" needs no calibration data. Raises `InputError` for a part that no batch goes through.
    """
    if importance == "magnitude":
        return [magnitude(module, part) for part in parts]
    assert calibration is not None
    if importance == "taylor":
        return taylor(module, parts, calibration(), task)
    return activation(module, parts, calibration())


def magnitude(module: nn.Module, part: Attention | FeedForward) -> torch.Tensor:
    """The L2 norm of all weights into and out of each group (groups,)."""
    weights = [_weight(module, name) for name in part.inputs] + [_weight(module, part.output).T]
    squares = [weight.reshape(part.groups, -1).square().sum(1) for weight in weights]
    return torch.stack(squares).sum(0).sqrt()


def activation(
    module: nn.Module, parts: Sequence[Attention | FeedForward], batches: Batches
) -> list[torch.Tensor]:
    """The norm of each feature over all data times that of its outgoing weights, summed by group.

    The score of Wanda (Sun et al. 2023, "A simple and effective pruning approach for large
    language models"), for whole features instead of single weights.
    """
    squares: dict[str, torch.Tensor] = {}
    hooks = []
    for part in parts:

        def add(_: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = part.output) -> None:
            square = inputs[0].detach().double().flatten(0, -2).square().sum(0)
            squares[name] = squares.get(name, 0) + square

        hooks.append(module.get_submodule(part.output).register_forward_pre_hook(add))
    try:
        with plain_kernels(), torch.no_grad():
            for batch in batches:
                module(**tensors(batch))
    finally:
        for hook in hooks:
            hook.remove()
    _check_run(parts, squares)
    return [
        (squares[part.output].sqrt() * _weight(module, part.output).norm(dim=0))
        .reshape(part.groups, -1)
        .sum(1)
        for part in parts
    ]


def taylor(
    module: nn.Module, parts: Sequence[Attention | FeedForward], batches: Batches, task: str = "generic"
) -> list[torch.Tensor]:
    """By how much, to first order, the loss changes without each group: |sum of w dL/dw|, mean over batches.

    The sum is over the group's outgoing weights, which makes it the gradient of a gate on the
    group: Molchanov et al. 2019, "Importance estimation for neural network pruning"; Michel et al.
    2019, "Are sixteen heads really better than one?". The loss is `proxy_loss`.
    """
    gates: dict[str, torch.Tensor] = {}
    hooks = []
    for part in parts:

        def gate(
            layer: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = part.output
        ) -> tuple[torch.Tensor, ...]:
            # One for all calls of a layer within a batch.
            if name not in gates:
                gates[name] = torch.ones(inputs[0].shape[-1], dtype=inputs[0].dtype, requires_grad=True)
            return (inputs[0] * gates[name], *inputs[1:])

        hooks.append(module.get_submodule(part.output).register_forward_pre_hook(gate))
    generator = torch.Generator().manual_seed(SEED)
    total = {part.output: torch.zeros(part.groups, dtype=torch.float64) for part in parts}
    seen: dict[str, torch.Tensor] = {}
    count = 0
    try:
        for batch in batches:
            gates.clear()
            with plain_kernels(), torch.enable_grad():
                loss = proxy_loss(main_output(module(**tensors(batch))), task, generator)
                names = list(gates)
                found = torch.autograd.grad(loss, [gates[name] for name in names], allow_unused=True)
            for name, gradient in zip(names, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.double().reshape(len(total[name]), -1).sum(1).abs()
            seen |= gates
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
    _check_run(parts, seen)
    return [total[part.output] / count for part in parts]


def proxy_loss(output: torch.Tensor, task: str, generator: torch.Generator) -> torch.Tensor:
    """A loss without labels: the cross entropy of a classifier's logits with its own answer.

    Of any other output, its product with random normal numbers, whose gradients are as large as the
    output's changes are: neither an embedding's largest number nor, where it is normalised, its
    norm says anything.
    """
    if output.dim() == 2 and task != "embedding":
        return functional.cross_entropy(output, output.detach().argmax(1))
    return (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()


def calibration_of(context: Context, what: str) -> Calibration:
    """The context's calibration data, counted for `Context.progress`; raises `InputError` for none."""
    given = context.calibration
    if given is None:
        raise InputError(
            f"{what} needs calibration data.",
            'Give --data, or choose importance "magnitude" and no repair.',
        )

    def batches() -> Iterator[Mapping[str, np.ndarray]]:
        for seen, batch in enumerate(given(), 1):
            yield batch
            context.progress(seen)

    return batches


def _check_run(parts: Iterable[Attention | FeedForward], seen: Mapping[str, Any]) -> None:
    for part in parts:
        if part.output not in seen:
            raise not_run(part.output)


def _weight(module: nn.Module, name: str) -> torch.Tensor:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer.weight.detach().double()
