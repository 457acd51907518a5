"""Depth pruning: a transformer, or a network of residual blocks, with fewer of them.

Evenly spaced blocks of a deep model make the better start for a shallow one than its first (Sanh et
al. 2019, "DistilBERT"; Sajjad et al. 2023, "On the effect of dropping layers of pre-trained
transformer models"); without training the blocks that change the output least go first. Of networks of
convolutions the blocks go that give what they take another value, and no other shape: a residual network
bears that, as one that was trained with blocks left out shows (Huang et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    import torch
    from torch import nn

    from openglm.passes.structure.residuals import Pool

BATCHES = 32
"""Calibration batches, at most, that each removal is judged on."""
TARGET_BYTES = 2**28
"""Size of the outputs kept for that, at most; a language model's are large."""
_COUNTS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers")
_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers")


class LayerPruning(ModulePass):
    """Whole blocks are removed, each replaced by what goes into it.

    Every stack of blocks is cut alike, so of an encoder-decoder model both; a stack that has no more
    than `keep` stays. In a network of convolutions only blocks that keep the shape of a picture count, and
    all of them are one stack.
    """

    scheme: ClassVar[str] = "layer_pruning"
    needs_calibration: ClassVar[bool] = True

    keep: Annotated[int, Field(ge=1)] | None = None
    """How many blocks stay."""
    which: Literal["even", "first", "importance"] = "importance"
    """Blocks at equal distances, the last among them; the first ones; or all but those whose removal,
    one after the other, changes the output on calibration data least."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """In place of `keep` and `which`: the blocks that stay, counted from 0 in their stack."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.keep is None) == (self.layers is None):
            raise ValueError("give either keep or layers")
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError("layers are named once each, in ascending order")
        return self

    @property
    def code(self) -> str:
        if self.layers is not None:
            return f"{self.scheme}_layers_{'_'.join(map(str, self.layers))}"
        return f"{self.scheme}_{self.keep}" + ("" if self.which == "importance" else f"_{self.which}")

    def apply(self, model: Model, context: Context) -> Adapted:
        """Raises `InputError` for a module without blocks, with fewer than `keep` or `layers` say, or
        that has exits already."""
        from openglm.training import exits, shortening

        module = deepcopy(model.module).eval()
        if exits.count(module) or shortening.of(module) is not None:
            raise InputError(
                "Layers were to be left out after exits or token pruning, which hang on them.",
                "Put layer_pruning before early_exit and token_pruning.",
            )
        stacks = _stacks(module, model.name)
        deepest = max(len(stack.positions) for stack in stacks)
        wanted = self.keep if self.layers is None else self.layers[-1] + 1
        assert wanted is not None
        if wanted > deepest:
            raise InputError(
                f"{model.name} has {deepest} blocks, fewer than the {wanted} that {self.code} is about.",
                f"Keep 1 to {deepest - 1} blocks." if deepest > 1 else "A single block cannot be removed.",
            )
        notes, changed = [], False
        for stack in stacks:
            kept = self._kept(stack, module, context)
            stack.keep(kept)
            count = len(stack.positions)
            changed |= len(kept) < count
            where = f" of {stack.name}" if len(stacks) > 1 else ""
            notes.append(
                f"Of {count} blocks{where} these stay: {', '.join(map(str, kept))}."
                if len(kept) < count
                else f"All {count} blocks{where} stay."
            )
        return Adapted(model.with_module(module), changed, tuple(notes))

    def _kept(self, stack: _Stack | Pool, module: nn.Module, context: Context) -> list[int]:
        count = len(stack.positions)
        if self.layers is not None:
            return [index for index in self.layers if index < count]
        assert self.keep is not None
        if count <= self.keep or self.which == "first":
            return list(range(min(count, self.keep)))
        if self.which == "even":
            return evenly(count, self.keep)
        if context.calibration is None:
            raise InputError(
                'Layer pruning by "importance" needs calibration data.',
                'Give --data, or choose the blocks by "even", "first" or their numbers.',
            )
        return _greedy(stack, module, context.calibration(), self.keep, context.progress)


def evenly(count: int, keep: int) -> list[int]:
    """`keep` of `count` indices at distances as equal as can be, the first and the last among them."""
    if keep == 1:
        return [0]
    return [(2 * index * (count - 1) + keep - 1) // (2 * (keep - 1)) for index in range(keep)]


def _stacks(module: nn.Module, name: str) -> Sequence[_Stack | Pool]:
    from openglm.passes.structure.blocks import blocks, no_blocks
    from openglm.passes.structure.residuals import Pool, residuals

    positions: dict[str, list[int]] = {}
    for block in blocks(module):
        positions.setdefault(block.container, []).append(block.position)
    if positions:
        return [_Stack(module, path, found) for path, found in positions.items()]
    if not (pool := residuals(module)):
        raise no_blocks(name)
    return [Pool(pool)]


class _Stack:
    """The blocks of one container, any of which can be taken out and put back."""

    def __init__(self, module: nn.Module, path: str, positions: Sequence[int]) -> None:
        self.name = path
        self.positions = positions
        container: Any = module.get_submodule(path)
        self._container = container
        self._all = list(container)
        parts = path.split(".") if path else []
        owners = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
        holders = {id(owner): owner for owner in (*owners, *container.modules())}.values()
        configs = {id(found): found for item in holders if (found := getattr(item, "config", None))}
        count = len(positions)
        # What says how many blocks there are, or something of each; configs are the copy's own.
        self._counts = [
            (owner, name)
            for owner in (*owners, *configs.values())
            for name in _COUNTS
            if type(found := getattr(owner, name, None)) is int and found == count
        ]
        self._lists = [
            (config, name, found)
            for config in configs.values()
            for name in _LISTS
            if isinstance(found := getattr(config, name, None), list | tuple) and len(found) == count
        ]
        # A cache of keys and values is looked up by these.
        self._numbered = [
            (member, index)
            for index, position in enumerate(positions)
            for member in self._all[position].modules()
            if type(getattr(member, "layer_idx", None)) is int
        ]

    def keep(self, indices: Sequence[int]) -> None:
        """Leave the blocks with these indices, whichever were left before."""
        dropped = {position for index, position in enumerate(self.positions) if index not in indices}
        del self._container[:]
        self._container.extend(item for place, item in enumerate(self._all) if place not in dropped)
        for owner, name in self._counts:
            setattr(owner, name, len(indices))
        for config, name, values in self._lists:
            setattr(config, name, type(values)(values[index] for index in indices))
        places = {index: place for place, index in enumerate(indices)}
        for member, index in self._numbered:
            if index in places:
                setattr(member, "layer_idx", places[index])  # noqa: B010  # no attribute of every module


def _greedy(
    stack: _Stack | Pool,
    module: nn.Module,
    batches: Iterable[Mapping[str, np.ndarray]],
    keep: int,
    progress: Callable[[int], None],
) -> list[int]:
    import torch

    from openglm.passes.structure.moments import tensors
    from openglm.training.losses import main_output

    kept = list(range(len(stack.positions)))
    with torch.no_grad():
        targets: list[tuple[dict[str, torch.Tensor], torch.Tensor]] = []
        size = 0
        for batch in islice(batches, BATCHES):
            inputs = tensors(batch)
            output = main_output(module(**inputs))
            targets.append((inputs, output))
            progress(len(targets))
            size += output.nbytes
            if size > TARGET_BYTES:
                break
        if not targets:
            raise InputError("The calibration data holds no sample.", "Give data with at least one.")

        def change(indices: list[int]) -> float:
            """The mean over batches of the output's squared error, relative to the output."""
            stack.keep(indices)
            errors = [
                float((main_output(module(**inputs)) - output).square().sum() / output.square().sum())
                for inputs, output in targets
            ]
            return float(np.mean(errors))

        while len(kept) > keep:
            kept = min(([other for other in kept if other != index] for index in kept), key=change)
    return kept
