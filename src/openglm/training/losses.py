"""What a student is trained to make small: its distance from its teacher, and from the labels."""

from __future__ import annotations

import math

import torch
from torch.nn import functional
from torch.utils import _pytree

from openglm.errors import InputError


def main_output(outputs: object) -> torch.Tensor:
    """The first tensor of real numbers among what a module returns; raises `InputError` for none."""
    for leaf in _pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            return leaf
    raise InputError("The model returns no tensor of real numbers.", "Wrap it so that it returns one.")


def soft(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of the classes' probabilities at a temperature, times its square.

    Logits are (..., classes); the mean is over all before the last axis. The square keeps gradients
    of one size at every temperature (Hinton, Vinyals and Dean 2015).
    """
    found = functional.log_softmax(student.float() / temperature, -1)
    wanted = functional.log_softmax(teacher.float() / temperature, -1)
    divergence = functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)
    return divergence.mean() * temperature**2


def hard(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of logits (rows, classes) with int64 labels (rows,); of one output with float
    labels, the mean squared error."""
    if labels.is_floating_point():
        return functional.mse_loss(outputs.float().flatten(), labels)
    return functional.cross_entropy(outputs.float(), labels)


def response(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Distance of outputs (rows, ...) that are no logits: squared error and, for vectors, the angle.

    sum (s - t)^2 / sum t^2 + mean over rows of 1 - cos(s, t); the cosine only where a row has more
    than one value. Scaled by the teacher's size, it means the same for every model.
    """
    student, teacher = (output.float().reshape(len(output), -1) for output in (student, teacher))
    scaled = (student - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)
    if teacher.shape[-1] == 1:
        return scaled
    return scaled + (1 - functional.cosine_similarity(student, teacher, dim=-1)).mean()


def kept(output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Of an output for each token, (batch, tokens, values), the tokens that the mask (batch, tokens)
    keeps, as (kept, values); any other output as it is."""
    of_tokens = mask is not None and output.dim() == 3 and output.shape[:2] == mask.shape
    return output[mask.bool()] if of_tokens and mask is not None else output


def hidden(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of hidden states (batch, tokens, width) over the tokens that `mask` keeps.

    Where the student is narrower, a learned projection comes first (TinyBERT: Jiao et al. 2020).
    """
    difference = (student.float() - teacher.float()).square().mean(-1)
    return difference.mean() if mask is None else difference[mask.bool()].mean()


def relations(
    student: torch.Tensor, teacher: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """KL(teacher || student) of how the tokens of one kind of vector relate to each other.

    Queries, keys or values, (batch, tokens, width), are cut into `heads` relation heads of width
    w, and a token's relations are softmax(x xᵀ / sqrt(w)) over the tokens that `mask` keeps; the
    mean is over heads and such tokens. Widths may differ (MiniLMv2: Wang et al. 2021).
    """
    found, wanted = _relations(student, heads, mask), _relations(teacher, heads, mask)
    # A masked token's probability is 0 on both sides.
    divergence = (wanted.exp() * (wanted - found)).sum(-1).mean(1)
    return divergence.mean() if mask is None else divergence[mask.bool()].mean()


def _relations(vectors: torch.Tensor, heads: int, mask: torch.Tensor | None) -> torch.Tensor:
    """Logarithms of probabilities, (batch, heads, tokens, tokens)."""
    split = vectors.float().reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    # Autocast would leave three digits of the probabilities.
    with torch.autocast(vectors.device.type, enabled=False):
        scores = split @ split.transpose(-1, -2) / math.sqrt(split.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :].bool(), torch.finfo(scores.dtype).min)
    return functional.log_softmax(scores, -1)


def relation_heads(student_width: int, teacher_width: int) -> int:
    """Into how many relation heads both widths can be cut, of 16 or a little more where they allow it."""
    common = math.gcd(student_width, teacher_width)
    most = max(1, min(student_width, teacher_width) // 16)
    return max(count for count in range(1, most + 1) if common % count == 0)
