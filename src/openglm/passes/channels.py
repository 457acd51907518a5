"""Structured pruning of convolution nets: whole channels go, and every layer that has them shrinks.

Dependencies follow Fang et al. 2023, "DepGraph": normalisation, residual sums, concatenations,
depthwise convolutions and a flatten before a Linear lose the same channels.
"""

from __future__ import annotations

import copy
import math
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from openglm.errors import InputError, MissingExtraError, nearest
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from openglm.passes.structure.dependencies import Group

SAMPLES = 64
"""Calibration samples, at most, that channels are judged and layers refitted by."""
CHECKED = 4
"""Samples on which pruning must do no more than leave channels unread."""


class ChannelPruning(ModulePass):
    """Removes the least important channels, then repairs what is left without labels.

    The channels of the model's inputs and outputs stay. Channels that residual sums tie together
    go or stay together.
    """

    scheme: ClassVar[str] = "channel_pruning"
    needs_calibration: ClassVar[bool] = True

    keep: float = Field(gt=0, le=1)
    """Share of the channels that stays."""
    multiple: int = Field(default=8, ge=1)
    """Channels that stay are a multiple of it, as kernels like them; 16 suits some processors better."""
    importance: Literal["magnitude", "taylor", "activation"] = "taylor"
    """What tells which channels matter: their weights, the loss, or what reads them."""
    scope: Literal["layer", "global"] = "layer"
    """Whether each group of layers keeps this share of its channels, or all together do."""
    repair: bool = True
    """Refit the layers that lost inputs, and batch normalisation, on the calibration data."""
    layers: tuple[str, ...] | None = None
    """Only channels that these layers are the first to make, such as one at a time for a table."""

    @property
    def code(self) -> str:
        parts = [f"{self.scheme}_{self.keep:g}"]
        parts += [] if self.importance == "taylor" else [self.importance]
        parts += [f"m{self.multiple}"] if self.multiple != 8 else []
        parts += ["global"] if self.scope == "global" else []
        parts += [] if self.repair else ["unrepaired"]
        return "_".join([*parts, *(self.layers or ())])

    def apply(self, model: Model, context: Context) -> Adapted:
        """Raises `InputError` without calibration data, for an unknown layer, or where the module's
        channels cannot be followed."""
        from torch import nn

        if not any(isinstance(layer, nn.Conv2d) for layer in model.module.modules()):
            return Adapted(model, False, ("The model has no convolutions, whose channels could be pruned.",))
        try:
            from openglm.passes.structure import dependencies
        except ImportError as error:
            raise MissingExtraError("torch-pruning, which this pass works with,", "torch") from error
        from openglm.passes.structure.repair import repair

        batches = list(islice(context.calibration(), SAMPLES)) if context.calibration else []
        if not batches:
            raise InputError("There is no calibration data.", "Give at least one sample.")
        context.progress(len(batches))
        module = copy.deepcopy(model.module)
        groups, notes = dependencies.trace(module, batches[0])
        if self.layers is not None:
            for name in self.layers:
                if name not in {group.root for group in groups}:
                    raise InputError(
                        f"No channels that can be pruned begin at '{name}'.",
                        nearest(name, [group.root for group in groups]),
                    )
            groups = [group for group in groups if group.root in self.layers]
            notes = []
        scores = dependencies.scores(module, groups, self.importance, batches)
        removed = self._removed(groups, scores)
        if not removed:
            notes.append(f"No channels go: {self.keep:g} of them is all, in multiples of {self.multiple}.")
            return Adapted(model, False, tuple(notes))
        taken = dependencies.prune(module, groups, removed, batches[:CHECKED])
        if self.repair:
            repair(model.module, module, taken, batches)
        before = sum(group.size for group in groups)
        after = before - sum(len(gone) for gone in removed.values())
        notes.append(f"{after} of {before} channels stay, in {len(groups)} groups that are pruned together.")
        return Adapted(model.with_module(module), True, tuple(notes))

    def _removed(
        self, groups: Sequence[Group], scores: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The channels to remove by their group's root, the least important ones."""
        wanted = {group.root: self.keep * group.size for group in groups}
        if self.scope == "global" and groups:
            wanted = _over_all(scores, self.keep)
        removed = {}
        for group in groups:
            gone = group.size - self._rounded(wanted[group.root], group.size)
            if gone:
                removed[group.root] = scores[group.root].argsort(stable=True)[:gone].sort().values
        return removed

    def _rounded(self, wanted: float, size: int) -> int:
        """The nearest multiple; never none, and all where the nearest is not less."""
        if wanted >= size:
            return size
        nearby = max(1, math.floor(wanted / self.multiple + 0.5)) * self.multiple
        return min(nearby, size)


def _over_all(scores: Mapping[str, torch.Tensor], keep: float) -> dict[str, float]:
    """How many channels of each group are among the best of all, each measured by its group's mean."""
    import torch

    relative = {root: found / found.mean().clamp_min(1e-30) for root, found in scores.items()}
    every = torch.cat(list(relative.values())).sort(descending=True).values
    bar = every[max(0, math.ceil(keep * len(every)) - 1)]
    return {root: float((found >= bar).sum()) for root, found in relative.items()}
