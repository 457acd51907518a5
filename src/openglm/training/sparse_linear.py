"""Linear layers that train while their least weights count as zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def least(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` least scores along the last axis are: bool, of the scores' shape.

    Among equal scores the first ones.
    """
    order = scores.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def outside_pattern(scores: torch.Tensor, kept: int, group: int) -> torch.Tensor:
    """Where the pattern `kept`:`group` has its zeros: bool, of the scores' shape.

    Of every `group` consecutive scores along the last axis, which is a multiple of it, all but the
    `kept` greatest.
    """
    return least(scores.reshape(-1, group), group - kept).reshape(scores.shape)


class SparseLinear(nn.Linear):
    """A linear layer whose weights below `threshold` in magnitude count as zeros.

    With a `pattern` (N, M), of every M consecutive weights along the inputs all but the N greatest
    count as zeros too. Gradients go to all weights as if none were zero, the straight-through
    estimator (Bengio et al., 2013, arXiv:1308.3432), so that a weight can grow back; for N:M
    patterns: Zhou et al., 2021, arXiv:2102.04010.
    """

    threshold: torch.Tensor
    """A scalar, kept with the weights."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        threshold: float = 0.0,
        pattern: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        if pattern is not None and in_features % pattern[1]:
            raise ValueError(f"{in_features} inputs are no multiple of {pattern[1]}")
        self.pattern = pattern
        self.register_buffer("threshold", torch.tensor(threshold))

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, threshold: float = 0.0, pattern: tuple[int, int] | None = None
    ) -> SparseLinear:
        """The layer with the parameters of `linear`, not copies of them.

        Raises `ValueError` where its inputs are no multiple of the pattern's M.
        """
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            threshold=threshold,
            pattern=pattern,
        )
        layer.weight, layer.bias = linear.weight, linear.bias
        return layer.train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in features) to (..., out features)."""
        # Weight plus (masked weight less weight) is exactly the masked weight.
        passed = self.weight + (self.masked() - self.weight).detach()
        return functional.linear(input, passed, self.bias)

    def masked(self) -> torch.Tensor:
        """The weight with its zeros, (out features, in features), without gradients."""
        weight = self.weight.detach()
        zero = weight.abs() < self.threshold
        if self.pattern is not None:
            zero |= outside_pattern(weight.abs(), *self.pattern)
        return weight.masked_fill(zero, 0.0)

    @property
    def sparsity(self) -> float:
        """The share of the weights that count as zeros."""
        return float((self.masked() == 0).float().mean())

    def prune_to(self, share: float) -> None:
        """Put the threshold where this share of the weights is below it, as nearly as equal ones allow."""
        count = min(round(share * self.weight.numel()), self.weight.numel() - 1)
        self.threshold.copy_(self.weight.detach().abs().flatten().kthvalue(count + 1).values)

    def to_linear(self) -> nn.Linear:
        """A plain linear layer with real zeros, which gives the same outputs."""
        linear = nn.Linear(
            self.in_features,
            self.out_features,
            self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        linear.weight = nn.Parameter(self.masked(), self.weight.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return linear.train(self.training)


def shrink(weight: torch.Tensor, amount: float) -> None:
    """Take `amount` off every magnitude, down to zero: the proximal step of an L1 term, in place.

    Soft thresholding, with `amount` the learning rate times the term's strength (Parikh and Boyd,
    2014, "Proximal Algorithms", 6.5.2): unlike the term's gradient it makes exact zeros.
    """
    with torch.no_grad():
        weight.copy_(functional.softshrink(weight, amount))


def exchange(module: nn.Module, new: Mapping[Any, nn.Module]) -> None:
    """Put other modules in the place of some within `module`, wherever these stand."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
