"""Factorising layers into two thin ones, and giving out their ranks under one budget.

The truncated singular value decomposition of a weight times its inputs' whitening loses the least
of the layer's output on the data (Wang et al. 2024, "SVD-LLM"; Yuan et al. 2023, "ASVD"): with
L Lᵀ the covariance of the inputs, W L = U S Vᵀ and W ≈ (U_r S_r)(V_rᵀ L⁻¹).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from openglm.errors import InputError
from openglm.passes.structure.moments import differentiable, tensors, whitener

Layer = nn.Linear | nn.Conv2d
FACTORISED = (nn.Linear, nn.Conv2d)
"""Subclasses may compute something else."""


class Choice(NamedTuple):
    """One way to have a layer: its multiply-accumulates, and what it does to the outputs, squared."""

    rank: int | None
    """None for the whole layer."""
    cost: int
    loss: float


@dataclass(frozen=True)
class Found:
    """What a few runs of a module show of its Linear and Conv2d layers."""

    positions: dict[str, int]
    """How often each layer's weight is applied in the first sample: tokens, or pixels of its output."""
    heads: frozenset[str]
    """The layers whose outputs are the module's."""
    weights: dict[str, float]
    """What a squared error of 1 in each number that the layer gives does to the outputs, squared."""


def survey(module: nn.Module, batches: Iterable[Mapping[str, np.ndarray]]) -> Found:
    """Run the module on a few batches, there and back; a layer that is not called is not in the result.

    The weights come from the gradients of random sums of the outputs, signs drawn anew for each batch
    (Hutchinson's estimate of the squared Jacobian). Raises `InputError` where no output has a gradient.
    """
    positions: dict[str, int] = {}
    heads: set[str] = set()
    weights: dict[str, float] = {}
    calls: list[tuple[str, torch.Tensor]] = []
    generator = torch.Generator().manual_seed(0)

    def watch(name: str, layer: nn.Module) -> Any:
        return layer.register_forward_hook(lambda _, __, output: calls.append((name, output)))

    hooks = [watch(name, layer) for name, layer in module.named_modules() if type(layer) in FACTORISED]
    try:
        for batch in batches:
            calls.clear()
            with differentiable(module):
                leaves = [leaf for leaf in tree_leaves(module(**tensors(batch))) if _has_gradient(leaf)]
                if not leaves:
                    raise InputError(
                        f"No output of {type(module).__name__} has a gradient.",
                        "Give a model whose outputs are real numbers that follow from its layers.",
                    )
                total = torch.stack([_random_sum(leaf, generator) for leaf in leaves]).sum()
                slopes = torch.autograd.grad(total, [output for _, output in calls], allow_unused=True)
            outputs = {leaf.data_ptr() for leaf in leaves}
            first = not positions
            for (name, output), slope in zip(calls, slopes, strict=True):
                if first:
                    width = output.shape[1 if output.dim() == 4 else -1]
                    positions[name] = positions.get(name, 0) + output.numel() // width
                if output.data_ptr() in outputs:
                    heads.add(name)
                weights.setdefault(name, 0.0)
                weights[name] += 0.0 if slope is None else float(slope.square().sum())
    finally:
        for hook in hooks:
            hook.remove()
    return Found(positions, frozenset(heads), weights)


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None


def _random_sum(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    signs = torch.randint(0, 2, leaf.shape, generator=generator).to(leaf) * 2 - 1
    return (leaf * signs).sum()


@dataclass(frozen=True)
class Factors:
    """A layer's whitened singular values and the two thin matrices, up to the rank at which they pay."""

    values: torch.Tensor
    """All of them, (min(in, out),), greatest first."""
    first: torch.Tensor
    """(rank, in): reads the inputs."""
    second: torch.Tensor
    """(out, rank)."""
    mean: torch.Tensor
    """Of the inputs, (in,)."""


def decompose(layer: Layer, moment: torch.Tensor) -> Factors:
    """The whitened decomposition of a layer, `moment` being that of its inputs as `gather` gives it."""
    whole = _matrix(layer)
    outputs, inputs = whole.shape
    lower = whitener(_centred(layer, moment))
    left, values, right = torch.linalg.svd(whole @ lower, full_matrices=False)
    most = inputs * outputs // (inputs + outputs)
    first = torch.linalg.solve_triangular(lower, right[:most], upper=False, left=False)
    second = left[:, :most] * values[:most]
    mean = moment[-1, :-1] / moment[-1, -1]
    return Factors(values, first.float(), second.float(), mean)


def choices(factors: Factors, positions: int, weight: float, multiple: int) -> list[Choice]:
    """What the layer can be: each rank, a multiple of `multiple`, that is cheaper than the whole, and it.

    The loss is the mean squared error of the layer's output times `weight`. Costs are for one sample.
    """
    inputs, outputs = factors.first.shape[1], len(factors.second)
    energy = factors.values.square()
    losses = weight * (energy.sum() - energy.cumsum(0)).clamp_min(0) / outputs
    found = [
        Choice(rank, positions * rank * (inputs + outputs), float(losses[rank - 1]))
        for rank in range(multiple, len(factors.first) + 1, multiple)
        if rank * (inputs + outputs) < inputs * outputs
    ]
    return [*found, Choice(None, positions * inputs * outputs, 0.0)]


def allocate(layers: Mapping[str, Sequence[Choice]], budget: float) -> dict[str, Choice] | None:
    """One choice for each layer, their costs within `budget` and their losses' sum small; None if none fits.

    From the cheapest on, the step with the greatest reduction of loss for its cost is taken, over the
    convex hull of each layer's choices: what a Lagrangian solution takes. The last of the budget goes
    to the best steps that still fit.
    """
    chosen = {name: options[0] for name, options in layers.items()}
    rest = budget - sum(choice.cost for choice in chosen.values())
    if rest < 0:
        return None
    while True:
        steps = [
            ((chosen[name].loss - option.loss) / (option.cost - chosen[name].cost), name, option)
            for name, options in layers.items()
            for option in options
            if 0 < option.cost - chosen[name].cost <= rest
        ]
        if not steps:
            return chosen
        _, name, option = max(steps, key=lambda step: (step[0], -step[2].cost))
        rest -= option.cost - chosen[name].cost
        chosen[name] = option


def factorised(layer: Layer, factors: Factors, rank: int) -> nn.Sequential:
    """The layer as two, with `rank` features between them; the second has the bias.

    Where the layer has one, it takes up the mean of what is lost.
    """
    first, second = factors.first[:rank], factors.second[:, :rank]
    thin, wide = _thin_layers(layer, rank)
    with torch.no_grad():
        thin.weight.copy_(first.reshape(thin.weight.shape))
        wide.weight.copy_(second.reshape(wide.weight.shape))
        if layer.bias is not None:
            lost = _matrix(layer) - second.double() @ first.double()
            wide.bias.copy_(layer.bias + lost @ factors.mean)
    pair = nn.Sequential(thin, wide).train(layer.training)
    return pair.requires_grad_(layer.weight.requires_grad)


def _thin_layers(layer: Layer, rank: int) -> tuple[Any, Any]:
    kept: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False, **kept),
            nn.Linear(rank, layer.out_features, bias=bias, **kept),
        )
    window: dict[str, Any] = {
        "kernel_size": layer.kernel_size, "stride": layer.stride,
        "padding": layer.padding, "dilation": layer.dilation,
    }  # fmt: skip
    thin = nn.Conv2d(layer.in_channels, rank, bias=False, **window, **kept)
    return thin, nn.Conv2d(rank, layer.out_channels, 1, bias=bias, **kept)


def _matrix(layer: Layer) -> torch.Tensor:
    return layer.weight.detach().flatten(1).double()


def _centred(layer: Layer, moment: torch.Tensor) -> torch.Tensor:
    """The moments about the mean, where a bias can take up the mean."""
    if layer.bias is None:
        return moment
    centred = moment.clone()
    centred[:-1, :-1] -= torch.outer(moment[:-1, -1], moment[-1, :-1]) / moment[-1, -1]
    return centred
