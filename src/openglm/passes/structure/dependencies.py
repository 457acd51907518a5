"""Which channels of a convolution net hang together, and taking them out.

The dependencies are torch-pruning's (DepGraph; Fang et al. 2023, "DepGraph: Towards Any Structural
Pruning"): what a channel passes through on its way from the layers that make it to those that read
it. The graph follows gradients and takes what it does not know for elementwise, so its result is
never trusted: the pruned module must give what the whole one gives with the removed channels unread.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from openglm.errors import InputError
from openglm.passes.structure.moments import differentiable, tensors

TOLERANCE = 1e-3
"""Largest difference, relative to the largest output, that is taken as rounding."""
Removed = dict[tuple[str, bool], list[int]]
"""Indices that a layer lost, by its name and whether they are of its inputs (else of its outputs)."""
_PASSED = {"BN", "IN", "PRELU", "CONCAT", "SPLIT", "ELEMENTWISE", "RESHAPE", "SLICE", "EXPAND", "UNBIND"}
_MIXING = ("Bmm", "Mm", "Softmax", "ScaledDotProduct")


@dataclass(frozen=True)
class Member:
    """A layer that a group's channels are made by, pass through, or are read by."""

    name: str
    reads: bool
    """Whether it takes the channels as inputs that it multiplies with a weight and sums."""
    places: torch.Tensor
    """Its own channels or features, in the group's order."""
    channels: torch.Tensor
    """For each place the channel of the group that stands there."""
    remove: Callable[[nn.Module, list[int]], Any]


@dataclass(frozen=True)
class Group:
    """Channels that are made, passed on and read together, in `size` of which each can be removed."""

    root: str
    """The name of the first layer that makes them."""
    size: int
    members: tuple[Member, ...]


def trace(module: nn.Module, batch: Mapping[str, np.ndarray]) -> tuple[list[Group], list[str]]:
    """The groups of channels that can be pruned, and a sentence on each that cannot.

    Those that reach the module's inputs or outputs are neither. Raises `InputError` where the module
    does not run or cannot be followed.
    """
    example, entrances = {}, []
    for name, tensor in tensors(batch).items():
        if tensor.is_floating_point():
            # An operation of its own, so that what is added to an input is known by it.
            tensor = tensor.clone().requires_grad_() * 1
            entrances.append(tensor.grad_fn)
        example[name] = tensor
    try:
        with warnings.catch_warnings(), differentiable(module):
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                module, example, output_transform=_marked, verbose=False
            )
            found = list(graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)))
    except Exception as error:  # what the module or the tracing raises
        raise _untraceable(module, error) from error
    names = {layer: name for name, layer in module.named_modules()}
    order = list(names.values())
    tied = _tied(module)
    groups, notes = [], []
    for candidate in found:
        if any(
            item.dep.target.type == tp.ops.OPTYPE.OUTPUT or item.dep.target.grad_fn in entrances
            for item in candidate
        ):
            continue
        makers = [names[item.dep.target.module] for item in candidate if _makes(item, graph)]
        root = min(makers, key=order.index)
        obstacle = next(filter(None, (_obstacle(item.dep.target, names, tied) for item in candidate)), None)
        if obstacle:
            notes.append(f"The channels of {root} stay: {obstacle}.")
            continue
        members = tuple(_members(candidate, graph, names))
        if any(member.reads for member in members):
            groups.append(Group(root, len(candidate[0].idxs), members))
    return sorted(groups, key=lambda group: order.index(group.root)), notes


def _marked(outputs: Any) -> list[torch.Tensor]:
    # A last layer is an output only by what follows it; an operation of ours always does.
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
    return [leaf * 1 for leaf in leaves if leaf.grad_fn is not None]


def _tied(module: nn.Module) -> set[nn.Module]:
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(layer)
    return {layer for layers in owners.values() if len(layers) > 1 for layer in layers}


def _obstacle(node: Any, names: Mapping[nn.Module, str], tied: Collection[nn.Module]) -> str | None:
    """Why channels that pass here cannot be pruned."""
    layer, kind = node.module, node.type.name
    if layer in tied:
        return f"{names[layer]} shares its weight with another layer"
    if kind == "ELEMENTWISE" and any(word in str(layer) for word in _MIXING):
        return "they enter a matrix product or softmax"
    if kind in _PASSED or kind == "LINEAR":
        return None
    if kind in ("CONV", "DEPTHWISE_CONV"):
        whole = layer.groups == 1 or layer.groups == layer.in_channels == layer.out_channels
        return None if whole else f"{names[layer]} is a grouped convolution"
    return f"they pass through {names.get(layer, 'a parameter')}, which is not pruned by channels"


def _makes(item: Any, graph: Any) -> bool:
    return _weighs(item.dep.target.module) and graph.is_out_channel_pruning_fn(item.dep.handler)


def _members(group: Any, graph: Any, names: Mapping[nn.Module, str]) -> Iterable[Member]:
    for item in group:
        layer, handler = item.dep.target.module, item.dep.handler
        if layer not in names:
            continue
        yield Member(
            name=names[layer],
            reads=_weighs(layer) and graph.is_in_channel_pruning_fn(handler),
            places=torch.tensor(item.idxs),
            channels=torch.tensor(item.root_idxs),
            remove=handler,
        )


def _weighs(layer: nn.Module) -> bool:
    """Whether each output sums over the input channels, as a depthwise convolution's does not."""
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.modules.conv._ConvNd) and not layer.groups == layer.out_channels > 1
    )


def _untraceable(module: nn.Module, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return InputError(
        f"The channels of {type(module).__name__} cannot be followed from layer to layer ({reason}).",
        "Prune models whose forward is plain layers: no flow that depends on data, no fixed channel counts.",
    )


def scores(
    module: nn.Module, groups: Sequence[Group], importance: str, batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, torch.Tensor]:
    """How much each channel matters, (size,) float64, by the root of its group.

    "magnitude": the share of its weights in the squared norm of every layer that makes or reads it.
    "activation": the share of its variance, times its weights' squared norm, in that of every layer
    that reads it. "taylor": the squared first-order change of a loss when it is set to zero, summed
    over samples (Molchanov et al. 2019); the loss needs no labels: the cross entropy with the model's
    own class for outputs (batch, classes), else the squared norm.
    """
    if importance == "taylor":
        return _taylor(module, groups, batches)
    names = sorted({member.name for group in groups for member in group.members if member.reads})
    spread = _variances(module, names, batches) if importance == "activation" else {}
    found = {}
    for group in groups:
        found[group.root] = torch.zeros(group.size, dtype=torch.float64)
        for member in group.members:
            layer: Any = module.get_submodule(member.name)
            if not _weighs(layer) or (spread and not member.reads):
                continue
            sides = inputs_of(layer, layer.weight.detach().double())
            norms = (sides.transpose(0, 1) if member.reads else sides).flatten(1).square().sum(1)
            each = norms * spread[member.name] if spread else norms
            share = each / each.sum().clamp_min(1e-30)
            found[group.root].index_add_(0, member.channels, share[member.places])
    return found


def _variances(
    module: nn.Module, names: Sequence[str], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, torch.Tensor]:
    """The variance of each input channel of the named layers."""
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, inputs: torch.Tensor) -> None:
        rows = _rows(inputs).double()
        ones = torch.ones_like(rows[:, :1]).expand_as(rows)
        found = torch.stack([ones, rows, rows.square()]).sum(1)
        sums[name] = sums[name] + found if name in sums else found

    with _hooked(module, {name: partial(add, name) for name in names}), torch.no_grad():
        for batch in batches:
            module(**tensors(batch))
    return {name: square / count - (mean / count) ** 2 for name, (count, mean, square) in sums.items()}


def _taylor(
    module: nn.Module, groups: Sequence[Group], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, torch.Tensor]:
    found = {group.root: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    names = sorted({member.name for group in groups for member in group.members if member.reads})
    read: list[tuple[str, torch.Tensor]] = []
    hooks = {name: partial(lambda name, inputs: read.append((name, inputs)), name) for name in names}
    with _hooked(module, hooks), differentiable(module):
        for batch in batches:
            read.clear()
            loss = torch.stack([_loss(leaf) for leaf in _marked(module(**tensors(batch)))]).sum()
            slopes = torch.autograd.grad(loss, [inputs for _, inputs in read], materialize_grads=True)
            change: dict[str, torch.Tensor] = {}
            for (name, inputs), slope in zip(read, slopes, strict=True):
                products = _rows((inputs * slope).detach()).double().sum(0)
                change[name] = change[name] + products if name in change else products
            for group in groups:
                total = torch.zeros(group.size, dtype=torch.float64)
                for member in group.members:
                    if member.reads:
                        total.index_add_(0, member.channels, change[member.name][member.places])
                found[group.root] += total.square()
    return found


def _loss(outputs: torch.Tensor) -> torch.Tensor:
    if outputs.dim() == 2:
        return functional.cross_entropy(outputs, outputs.argmax(1), reduction="sum")
    return outputs.float().square().sum()


def _rows(inputs: torch.Tensor) -> torch.Tensor:
    """Channels last: (rows, channels)."""
    return inputs.movedim(1, -1).flatten(0, -2) if inputs.dim() == 4 else inputs.flatten(0, -2)


@contextmanager
def _hooked(module: nn.Module, hooks: Mapping[str, Callable[[torch.Tensor], Any]]) -> Iterator[None]:
    """While open, each named layer's hook is called with the layer's input before it runs."""

    def hook(seen: Callable[[torch.Tensor], Any]) -> Any:
        def before(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen(inputs[0])

        return before

    handles = [
        module.get_submodule(name).register_forward_pre_hook(hook(seen)) for name, seen in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def prune(
    module: nn.Module,
    groups: Sequence[Group],
    removed: Mapping[str, torch.Tensor],
    batches: Sequence[Mapping[str, np.ndarray]],
) -> Removed:
    """Take from `module`, in place, the channels that `removed` names by the root of their group.

    Raises `InputError` where it then does not give on `batches` what it gave with these channels
    unread, the sign that they were used in ways the groups do not show.
    """
    unread = copy.deepcopy(module)
    taken: dict[tuple[str, bool], set[int]] = {}
    removers = {}
    with torch.no_grad():
        for group in groups:
            if group.root not in removed:
                continue
            for member in group.members:
                places = member.places[torch.isin(member.channels, removed[group.root])]
                taken.setdefault((member.name, member.reads), set()).update(places.tolist())
                removers[member.name, member.reads] = member.remove
                if member.reads:
                    layer: Any = unread.get_submodule(member.name)
                    inputs_of(layer, layer.weight)[:, places] = 0
    flags = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        for (name, reads), gone in taken.items():
            removers[name, reads](module.get_submodule(name), sorted(gone))
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(flags[name])
        with torch.no_grad():
            for batch in batches:
                _compare(unread(**tensors(batch)), module(**tensors(batch)))
    except Exception as error:  # what the module raises where it counts on its channels
        raise _untraceable(module, error) from error
    return {key: sorted(gone) for key, gone in taken.items()}


def inputs_of(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A view of a layer's weight with its inputs as the second axis, as transposed convolutions have not."""
    return weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight


def _compare(expected: Any, found: Any) -> None:
    for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if not isinstance(ours, torch.Tensor):
            continue
        if ours.shape != theirs.shape:
            raise ValueError(f"an output of shape {tuple(theirs.shape)} became {tuple(ours.shape)}")
        if not torch.allclose(ours, theirs, rtol=0, atol=TOLERANCE * float(theirs.abs().max())):
            raise ValueError("channels are used where no layer was seen to read them")
