"""Random changes of pictures that leave what they show."""

from __future__ import annotations

import torch
from torch.nn import functional


def mirror_shift(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pictures (rows, channels, height, width) mirrored with probability 1/2, and shifted each way by
    up to an eighth of their size, with their own reflection beyond the edge; other inputs as they are."""
    return {name: _mirror_shift(tensor) if tensor.dim() == 4 else tensor for name, tensor in inputs.items()}


def _mirror_shift(pictures: torch.Tensor) -> torch.Tensor:
    count, _, height, width = pictures.shape
    down, right = height // 8, width // 8
    wide = functional.pad(pictures, (right, right, down, down), mode="reflect")
    tops = torch.randint(2 * down + 1, (count,)).tolist()
    lefts = torch.randint(2 * right + 1, (count,)).tolist()
    mirrored = torch.randint(2, (count,)).tolist()
    made = []
    for picture, top, left, mirror in zip(wide, tops, lefts, mirrored, strict=True):
        cut = picture[:, top : top + height, left : left + width]
        made.append(cut.flip(-1) if mirror else cut)
    return torch.stack(made)
