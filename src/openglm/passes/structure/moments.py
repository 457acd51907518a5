"""Second moments of layers' inputs, and what follows from them: least-squares repair and whitening.

A layer that loses inputs is refitted, without labels, so that on the calibration data it gives as
nearly as can be what it gave before: the normal equations need only the second moments of its
inputs, with a constant 1 among these for the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

DAMPING = 1e-3
"""Share of the moments' mean diagonal that is added to it: with few samples they are not of full rank."""
ROWS = 2048
"""At most so many rows of one call are counted: a large picture's pixels tell little more than a part."""
LIMIT = 2**27
"""Numbers that the moments of layers seen in one run over the data may hold together: 1 GiB."""


def features(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The rows that a Linear or an ungrouped Conv2d multiplies its weight with: (rows, in features).

    A convolution's features are its patches, channel by channel: (channels * height * width).
    """
    if isinstance(layer, nn.Conv2d):
        padding: Any = layer.padding
        if padding == "same":
            raise ValueError("a convolution with padding='same' has no plain patches")
        patches = functional.unfold(
            inputs, layer.kernel_size, layer.dilation, 0 if padding == "valid" else padding, layer.stride
        )
        return patches.transpose(1, 2).flatten(0, 1)
    return inputs.flatten(0, -2)


@contextmanager
def watching(module: nn.Module, names: Collection[str], moments: dict[str, torch.Tensor]) -> Iterator[None]:
    """While open, every call of the named layers adds its inputs' second moments to `moments`."""
    hooks = []
    for name in names:
        layer = module.get_submodule(name)

        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            rows = features(layer, inputs[0].detach())
            if len(rows) > ROWS:
                drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows)))
                rows = rows[drawn[:ROWS].sort().values]
            rows = rows.double()
            rows = functional.pad(rows, (0, 1), value=1.0)
            width = rows.shape[1]
            # In place: a wide layer's moments are large beside the rows of one sample.
            moments.setdefault(name, rows.new_zeros(width, width)).addmm_(rows.T, rows)

        hooks.append(layer.register_forward_pre_hook(add))
    try:
        with plain_kernels():
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def plain_kernels() -> Iterator[None]:
    """While open, nn.TransformerEncoder packs no padded batch into nested tensors, which layers that
    are watched cannot take."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def gather(
    module: nn.Module, names: Collection[str], batches: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, torch.Tensor]:
    """The second moments of the named layers' inputs over all batches, each (in features + 1) squared.

    float64; the last row and column are those of a constant 1, so that the last corner counts rows.
    """
    moments: dict[str, torch.Tensor] = {}
    with watching(module, names, moments), torch.no_grad():
        for batch in batches:
            module(**tensors(batch))
    return moments


def in_turn(
    module: nn.Module, names: Collection[str], calibration: Callable[[], Iterable[Mapping[str, np.ndarray]]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """As `gather`, layer by layer, in as many runs over the data as keep the memory within `LIMIT`."""
    pending: list[str] = []
    held = 0
    for name in names:
        weight: Any = module.get_submodule(name).weight
        size = (weight[0].numel() + 1) ** 2
        if pending and held + size > LIMIT:
            yield from gather(module, pending, calibration()).items()
            pending, held = [], 0
        pending.append(name)
        held += size
    if pending:
        yield from gather(module, pending, calibration()).items()


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """While open, gradients flow from every parameter, those that training leaves alone included."""
    frozen = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_()
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def tensors(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch's arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in batch.items()}


def refit(
    weight: torch.Tensor, bias: torch.Tensor | None, moment: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight (out, kept) and bias (out,) that give from the kept features what all gave, in least squares.

    `weight` is (out, in), `moment` as `gather` gives it, `kept` the indices of features that stay.
    Without a bias none is made. Solves W' (M[K, K] + damping) = W M[:, K].
    """
    last = torch.tensor([len(moment) - 1])
    with_bias = bias is not None
    known = torch.cat([weight, bias[:, None]], 1) if bias is not None else weight
    every = torch.arange(len(moment)) if with_bias else torch.arange(len(moment) - 1)
    rows = torch.cat([kept, last]) if with_bias else kept
    damped = moment[rows][:, rows].clone()
    strength = DAMPING * damped.diagonal()[: len(kept)].mean().clamp_min(1e-12)
    damped.diagonal()[: len(kept)] += strength
    target = known.double() @ moment[every][:, rows]
    # What damping pulls towards: the old weights, not zero.
    target[:, : len(kept)] += strength * weight.double()[:, kept]
    solved = torch.linalg.solve(damped, target.T).T.to(weight.dtype)
    if not with_bias:
        return solved.contiguous(), None
    return solved[:, :-1].contiguous(), solved[:, -1].contiguous()


def whitener(moment: torch.Tensor) -> torch.Tensor:
    """L, lower triangular (in, in), with L Lᵀ the features' damped second moment: rows x of unit moment
    are those of L⁻¹ x."""
    damped = moment[:-1, :-1] / moment[-1, -1]
    damped.diagonal().add_(DAMPING * damped.diagonal().mean().clamp_min(1e-12))
    lower: torch.Tensor = torch.linalg.cholesky(damped)
    return lower
