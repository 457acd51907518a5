"""Bringing a pruned convolution net back to what it gave, without labels and without training.

Layer after layer, each with what the repaired ones before it now give: one that lost inputs is
refitted by least squares to the outputs of the whole net on the same pictures, as ThiNet does (Luo
et al. 2017), and batch normalisation is set so that its outputs keep the mean and variance they had
(Jordan et al. 2023, "REPAIR"). Two runs suffice, one of each net, over pictures stacked to a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from openglm.errors import InputError
from openglm.passes.structure.dependencies import Removed
from openglm.passes.structure.moments import DAMPING, features, tensors

ROWS = 8192
"""Positions of a layer's outputs that it is fitted to, drawn from all pictures alike."""
LARGEST = 2**27
"""Numbers that a layer's output on all pictures may hold: 512 MiB."""


def repair(
    whole: nn.Module, pruned: nn.Module, removed: Removed, batches: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Refit, in place, what `pruned` has left of the layers of `whole`.

    `removed` is what `prune` gave. Batches of another shape than the first are left out, and so many
    more as memory demands. A layer that is called more than once stays as it is. Raises `InputError`
    for a module that runs on single samples only.
    """
    stacked = _stack(whole, batches)
    readers = {name for name, reads in removed if reads and _can_be_refitted(whole.get_submodule(name))}
    try:
        targets, statistics = _observe(whole, removed, readers, stacked)
    except Exception as error:  # what the module raises
        raise InputError(
            f"{type(whole).__name__} does not run on several samples at once, as its repair needs.",
            "Turn the repair off, or let its forward take batches of any size.",
        ) from error

    def refit(name: str, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        old: Any = whole.get_submodule(name)
        outputs = _kept(len(old.weight), removed.get((name, False), []))
        places = _kept(old.weight.shape[1], removed[name, True])
        weight = old.weight.detach()[outputs][:, places].flatten(1)
        fitted = _solve(layer, inputs[0], targets[name], weight)
        layer.weight.data = fitted[:, :-1].reshape(layer.weight.shape).contiguous()
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(fitted)), requires_grad=layer.weight.requires_grad)
        layer.bias.data = fitted[:, -1].contiguous()

    def normalise(name: str, layer: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        old: Any = whole.get_submodule(name)
        channels = _kept(len(old.running_var), removed.get((name, False), []))
        before_mean, before_var = (found[channels] for found in statistics[name])
        mean, var = _statistics(inputs[0])
        ratio = (var + layer.eps) / (before_var + layer.eps)
        layer.running_var.copy_(((old.running_var[channels] + layer.eps) * ratio - layer.eps).clamp_min(0))
        layer.running_mean.copy_(mean - (before_mean - old.running_mean[channels]) * ratio.sqrt())

    hooks = []
    for name, action in [(name, refit) for name in targets] + [(name, normalise) for name in statistics]:

        def before(layer: Any, inputs: Any, name: str = name, action: Any = action) -> None:
            action(name, layer, inputs)

        hooks.append(pruned.get_submodule(name).register_forward_pre_hook(before))
    try:
        with torch.no_grad():
            pruned(**stacked)
    finally:
        for hook in hooks:
            hook.remove()


def _stack(module: nn.Module, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    first = batches[0]
    alike = [
        batch for batch in batches if all(batch[name].shape == array.shape for name, array in first.items())
    ]
    largest = 1

    def measure(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel())

    hooks = [layer.register_forward_hook(measure) for layer in module.modules()]
    try:
        with torch.no_grad():
            module(**tensors(first))
    finally:
        for hook in hooks:
            hook.remove()
    alike = alike[: max(1, LARGEST // largest)]
    return tensors({name: np.concatenate([batch[name] for batch in alike]) for name in first})


def _can_be_refitted(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and layer.padding != "same"
    return isinstance(layer, nn.Linear)


def _observe(
    whole: nn.Module, removed: Removed, readers: Collection[str], stacked: Mapping[str, torch.Tensor]
) -> tuple[dict[str, list[torch.Tensor]], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The readers' outputs at the drawn positions, by picture, and mean and variance before each norm."""
    targets: dict[str, list[torch.Tensor]] = {}
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    calls: dict[str, int] = {}

    def watch(name: str, layer: Any) -> Any:
        def after(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            if name in readers:
                kept = _kept(len(layer.weight), removed.get((name, False), []))
                channels_last = output.movedim(1, -1) if isinstance(layer, nn.Conv2d) else output
                rows = [picture.reshape(-1, picture.shape[-1]) for picture in channels_last]
                targets[name] = [row[_drawn(len(row), len(rows))][:, kept] for row in rows]
            else:
                statistics[name] = _statistics(inputs[0])

        return layer.register_forward_hook(after)

    norms = {
        name
        for name, layer in whole.named_modules()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.track_running_stats
    }
    hooks = [watch(name, whole.get_submodule(name)) for name in norms | set(readers)]
    try:
        with torch.no_grad():
            whole(**stacked)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name for name, count in calls.items() if count == 1}
    return (
        {name: found for name, found in targets.items() if name in once},
        {name: both for name, both in statistics.items() if name in once},
    )


def _statistics(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [axis for axis in range(inputs.dim()) if axis != 1]
    return inputs.mean(axes), inputs.var(axes, correction=0)


def _drawn(positions: int, pictures: int) -> torch.Tensor:
    """Which positions of each picture count, always the same."""
    order = torch.randperm(positions, generator=torch.Generator().manual_seed(positions))
    return order[: -(-ROWS // pictures)]


def _kept(count: int, gone: Sequence[int]) -> torch.Tensor:
    stays = torch.ones(count, dtype=torch.bool)
    stays[list(gone)] = False
    return stays.nonzero()[:, 0]


def _solve(
    layer: nn.Module, inputs: torch.Tensor, targets: Sequence[torch.Tensor], weight: torch.Tensor
) -> torch.Tensor:
    """Weight and, as the last column, bias that give `targets`; damping pulls towards `weight`."""
    size = weight.shape[1] + 1
    moment = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(len(weight), size, dtype=torch.float64)
    for picture, target in zip(inputs[:, None], targets, strict=True):
        rows = features(layer, picture)
        rows = functional.pad(rows[_drawn(len(rows), len(inputs))].double(), (0, 1), value=1.0)
        moment += rows.T @ rows
        cross += target.double().T @ rows
    strength = DAMPING * moment.diagonal()[:-1].mean().clamp_min(1e-12)
    moment.diagonal()[:-1] += strength
    cross[:, :-1] += strength * weight
    fitted: torch.Tensor = torch.linalg.solve(moment, cross.T).T
    return fitted.to(weight.dtype)
