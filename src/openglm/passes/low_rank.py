"""Low-rank factorisation: a layer's weight as the product of two thin ones, without training.

How much rank each layer keeps follows from how much of its output on the calibration data it would
lose, under one budget for all.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from openglm.errors import InputError, nearest
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import nn

    from openglm.passes.structure.ranks import Found


SURVEYED = 16
"""Samples, at most, from which it is estimated how much each layer's error matters to the outputs."""


class LowRank(ModulePass):
    """Linear layers and ungrouped convolutions as two thinner ones, by activation-aware SVD.

    A Linear becomes two; a convolution one of its own kernel to `rank` channels, then one of 1 x 1.
    The layers that give the model's outputs, layers that share their weight, and those that
    factorising would not make cheaper stay whole. Whitening by the inputs' second moments: Wang et
    al. 2024, "SVD-LLM"; Yuan et al. 2023, "ASVD".
    """

    scheme: ClassVar[str] = "low_rank"
    needs_calibration: ClassVar[bool] = True

    keep: float = Field(gt=0, le=1)
    """Share that stays, at most, of the multiply-accumulates of the layers that can be factorised."""
    multiple: int = Field(default=8, ge=1)
    """Ranks are multiples of it."""
    layers: tuple[str, ...] | None = None
    """Only layers whose names are these or stand below them, such as "encoder.layer.0"."""

    @property
    def code(self) -> str:
        suffix = "" if self.multiple == 8 else f"_m{self.multiple}"
        suffix += "" if self.layers is None else "_" + "_".join(self.layers)
        return f"{self.scheme}_{self.keep:g}{suffix}"

    def apply(self, model: Model, context: Context) -> Adapted:
        """Raises `InputError` without calibration data, for an unknown name, or for too small a budget."""
        from openglm.passes.structure import moments, ranks

        if context.calibration is None or (batch := next(iter(context.calibration()), None)) is None:
            raise InputError("There is no calibration data.", "Give at least one sample.")
        module = copy.deepcopy(model.module)
        found = ranks.survey(module, islice(context.calibration(), SURVEYED))
        names, notes = self._eligible(module, found)
        if not names:
            return Adapted(model, False, (*notes, "There is no layer that factorising would make cheaper."))
        options, factors = {}, {}
        for name, moment in moments.in_turn(module, names, context.calibration):
            layer: Any = module.get_submodule(name)
            factors[name] = ranks.decompose(layer, moment)
            options[name] = ranks.choices(
                factors[name], found.positions[name], found.weights[name], self.multiple
            )
        whole = {name: of[-1].cost for name, of in options.items()}
        budget = self.keep * sum(whole.values())
        chosen = ranks.allocate(options, budget)
        if chosen is None:
            least = sum(of[0].cost for of in options.values()) / sum(whole.values())
            raise InputError(
                f"No ranks are so small that {self.keep:g} of the multiply-accumulates stay.",
                f"Give a keep of at least {least:.2f}, or a smaller multiple.",
            )
        for name, choice in chosen.items():
            if choice.rank is not None:
                layer = module.get_submodule(name)
                module.set_submodule(name, ranks.factorised(layer, factors[name], choice.rank))
        _check(module, batch)
        changed = [choice for choice in chosen.values() if choice.rank is not None]
        if not changed:
            notes.append("No layer is factorised: the budget leaves all whole.")
            return Adapted(model, False, tuple(notes))
        cost = sum(choice.cost for choice in chosen.values()) / sum(whole.values())
        notes.append(
            f"{len(changed)} of {len(chosen)} layers are factorised; "
            f"{cost:.1%} of their multiply-accumulates stay."
        )
        return Adapted(model.with_module(module), True, tuple(notes))

    def _eligible(self, module: nn.Module, found: Found) -> tuple[list[str], list[str]]:
        """The names of the layers that can be factorised, and a sentence on each that one might miss."""
        from torch import nn

        shared = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
        layers = {
            name: layer for name, layer in module.named_modules() if type(layer) in (nn.Linear, nn.Conv2d)
        }
        for given in self.layers or ():
            if not any(_below(name, given) for name in layers):
                raise InputError(f"There is no layer '{given}' to factorise.", nearest(given, layers))
        names, notes = [], []
        for name, layer in layers.items():
            outputs, inputs = layer.weight.flatten(1).shape
            if self.layers is not None and not any(_below(name, given) for given in self.layers):
                continue
            if inputs * outputs <= self.multiple * (inputs + outputs):
                continue
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                continue
            if name in found.heads:
                notes.append(f"{name} gives the model's outputs and stays whole.")
            elif shared[id(layer.weight)] > 1:
                notes.append(f"{name} shares its weight with another layer and stays whole.")
            elif not found.weights.get(name):
                notes.append(f"{name} has no part in the outputs on the calibration data and stays whole.")
            elif isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or layer.padding == "same"):
                notes.append(f"{name} pads in a way that its inputs' moments do not cover, and stays whole.")
            else:
                names.append(name)
        return names, notes


def _below(name: str, given: str) -> bool:
    return name == given or name.startswith(f"{given}.")


def _check(module: nn.Module, batch: Mapping[str, np.ndarray]) -> None:
    """Modules that read the weights of their layers themselves do not run with others in their place."""
    import torch

    from openglm.passes.structure.moments import tensors

    try:
        with torch.no_grad():
            module(**tensors(batch))
    except Exception as error:  # what the module raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{type(module).__name__} does not run with factorised layers ({reason}).",
            "Name in 'layers' those that it only calls.",
        ) from error
