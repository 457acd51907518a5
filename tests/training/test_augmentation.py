"""Mirrored and shifted pictures show what they showed."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from openglm.training.augmentation import mirror_shift  # noqa: E402


def test_mirror_shift_shows_the_same() -> None:
    torch.manual_seed(0)
    pictures = torch.randn(200, 2, 16, 24)
    found = mirror_shift({"pixels": pictures, "other": pictures[:, 0]})
    assert torch.equal(found["other"], pictures[:, 0])
    changed = found["pixels"]
    assert changed.shape == pictures.shape
    mirrored, shifts = 0, set()
    for before, after in zip(pictures, changed, strict=True):
        places = [
            (flip, down, right)
            for flip in (False, True)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(
                (after.flip(-1) if flip else after)[:, 4:8, 6:12],
                before[:, 4 + down : 8 + down, 6 + right : 12 + right],
            )
        ]
        assert len(places) == 1
        mirrored += places[0][0]
        shifts.add(places[0][1:])
    assert 70 < mirrored < 130
    assert len(shifts) == 35
