"""Unstructured pruning without training: the least important weights become zeros.

By magnitude, as in Han et al., 2015 (arXiv:1506.02626), or by magnitude times the norm of the input
that the weight multiplies, as in Sun et al., 2023 ("Wanda", arXiv:2306.11695), which prunes large
language models to a half without further training.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.passes.contract import Adapted, Context, ModulePass

if TYPE_CHECKING:
    import torch
    from torch import nn

DEFAULT = 0.5
"""The sparsity where none is stated."""
SMALL_HEAD = 0.02
"""Share of all weights below which an output layer keeps its own: little is saved, logits suffer."""
PATTERN = r"^[1-9]\d*:[1-9]\d*$"
"""How a pattern N:M is written."""


def kept_of(pattern: str) -> tuple[int, int]:
    """N and M of "N:M"; raises `ValueError` where N is not less than M."""
    kept, group = map(int, pattern.split(":"))
    if kept >= group:
        raise ValueError(f"of {group} weights, {kept} would stay: nothing is pruned")
    return kept, group


def check_pattern(pattern: str | None, sparsity: float | None) -> None:
    """Raise `ValueError` for a pattern that prunes nothing, or one beside a sparsity."""
    if pattern is not None:
        kept_of(pattern)
        if sparsity is not None:
            raise ValueError("a pattern states the sparsity itself; give one of the two")


class MagnitudePruning(ModulePass):
    """Zeros in place of the least important weights of linear layers and convolutions.

    The model is smaller where it is stored compressed (`sparse_storage`); dense kernels compute as
    many products as before, in the same time. Embeddings, norms, biases and an output layer of
    less than 2 % of the weights keep theirs.
    """

    scheme: ClassVar[str] = "magnitude_pruning"

    sparsity: float | None = Field(default=None, gt=0, lt=1)
    """Share of the weights that become zeros; 0.5 where no pattern is given either."""
    scope: Literal["layer", "global"] = "layer"
    """Whether each layer loses that share of its weights, or the model, wherever they matter least."""
    pattern: str | None = Field(default=None, pattern=PATTERN)
    """"N:M": of every M consecutive weights along a layer's inputs, N stay. Its sparsity is 1 - N/M."""
    importance: Literal["magnitude", "activation"] = "magnitude"
    """What ranks weights: their magnitude, or that times the norm of their input on calibration data,
    which ranks the weights of each output on their own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_pattern(self.pattern, self.sparsity)
        if self.pattern is not None and self.scope == "global":
            raise ValueError("a pattern holds in every group, so its scope is the layer")
        if self.importance == "activation" and self.scope == "global":
            raise ValueError("norms of different layers' inputs do not compare, so the scope is the layer")
        return self

    @property
    def code(self) -> str:
        amount = f"{self._share:g}" if self.pattern is None else self.pattern.replace(":", "of")
        parts = [self.scheme, amount]
        parts += ["global"] if self.scope == "global" else []
        parts += ["activation"] if self.importance == "activation" else []
        return "_".join(parts)

    def apply(self, model: Model, context: Context) -> Adapted:
        import torch

        module = copy.deepcopy(model.module)
        layers, notes = prunable(module)
        if self.pattern is not None:
            _, group = kept_of(self.pattern)
            odd = [name for name, layer in layers.items() if layer.weight.shape[1] % group]
            layers = {name: layer for name, layer in layers.items() if name not in odd}
            notes += left(odd, f"a number of inputs that is no multiple of {group}")
        if not layers:
            return Adapted(model, False, (*notes, "There is no layer to prune."))
        scores = {name: layer.weight.detach().abs() for name, layer in layers.items()}
        if self.importance == "activation":
            norms, plain = input_norms(module, layers, context)
            scores |= {name: scores[name] * norm for name, norm in norms.items()}
            notes += tuple(f"{name} is pruned by magnitude: {why}." for name, why in plain.items())
        zeros = self._global(scores) if self.scope == "global" else self._by_layer(scores)
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.masked_fill_(zeros[name], 0.0)
        share = sum(int(zero.sum()) for zero in zeros.values()) / sum(zero.numel() for zero in zeros.values())
        done = (
            f"{share:.1%} of the weights of {len(layers)} layers are zeros: the file is smaller where it "
            "stores them compressed (sparse_storage), the speed that of the dense model."
        )
        return Adapted(model.with_module(module), True, (*notes, done))

    def _by_layer(self, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Where each layer's zeros go, in the shape of its weight and scores, (out, in, ...)."""
        from openglm.training.sparse_linear import least, outside_pattern

        zeros = {}
        for name, score in scores.items():
            if self.pattern is not None:
                zeros[name] = outside_pattern(score.movedim(1, -1), *kept_of(self.pattern)).movedim(-1, 1)
            else:
                rows = score.flatten(1) if self.importance == "activation" else score.flatten()
                zeros[name] = least(rows, round(self._share * rows.shape[-1])).reshape(score.shape)
        return zeros

    def _global(self, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        from openglm.training.sparse_linear import least

        flat = torch.cat([score.flatten() for score in scores.values()])
        sizes = [score.numel() for score in scores.values()]
        zeros = least(flat, round(self._share * len(flat))).split_with_sizes(sizes)
        return {name: zero.view_as(scores[name]) for name, zero in zip(scores, zeros, strict=True)}

    @property
    def _share(self) -> float:
        return DEFAULT if self.sparsity is None else self.sparsity


def prunable(module: nn.Module) -> tuple[dict[str, nn.Linear | nn.Conv2d], tuple[str, ...]]:
    """The layers of a module whose weights may become zeros, by name, and what is said of the others."""
    from torch import nn

    shared = Counter(id(item) for part in module.modules() for item in part.parameters(recurse=False))
    layers: dict[str, nn.Linear | nn.Conv2d] = {}
    tied, depthwise = [], []
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if shared[id(layer.weight)] > 1:
            tied.append(name)
        elif layer.weight.shape[1] == 1 and isinstance(layer, nn.Conv2d) and layer.groups > 1:
            depthwise.append(name)
        else:
            layers[name] = layer
    notes = left(tied, "the weights of another layer") + left(depthwise, "one input for each output")
    total = sum(layer.weight.numel() for layer in layers.values())
    last = next(reversed(layers), None)
    if last is not None and layers[last].weight.numel() < SMALL_HEAD * total:
        notes += left([last], f"less than {SMALL_HEAD:.0%} of all weights, at the output")
        del layers[last]
    return layers, notes


def left(names: list[str], why: str) -> tuple[str, ...]:
    """A note on layers that stay dense, none where there are none; `why` is what they have."""
    if not names:
        return ()
    others = f" and {len(names) - 2} others" if len(names) > 2 else ""
    verb = "stays dense: it has" if len(names) == 1 else "stay dense: they have"
    return (f"{', '.join(names[:2])}{others} {verb} {why}.",)


def input_norms(
    module: nn.Module, layers: Mapping[str, nn.Linear | nn.Conv2d], context: Context
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The norm of each input feature over the calibration data, by layer, (1, in, ...) as its weight.

    Second, the layers that have none, with the reason. Raises `InputError` without calibration data.
    """
    from torch import nn

    from openglm.passes.structure.moments import gather

    if context.calibration is None:
        raise InputError(
            "Importance by activation needs calibration data.", "Give --data, or rank weights by magnitude."
        )
    why: dict[str, str] = {}
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding == "same"):
            why[name] = "its convolution is grouped" if layer.groups > 1 else "its padding is 'same'"

    def batches() -> Iterator[Mapping[str, np.ndarray]]:
        assert context.calibration is not None
        for seen, batch in enumerate(context.calibration(), 1):
            yield batch
            context.progress(seen)

    moments = gather(module, [name for name in layers if name not in why], batches())
    norms = {
        name: moment.diagonal()[:-1].sqrt().to(layers[name].weight).view(1, *layers[name].weight.shape[1:])
        for name, moment in moments.items()
    }
    why |= {name: "the calibration data do not reach it" for name in layers if name not in norms | why}
    return norms, why
