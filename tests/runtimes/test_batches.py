"""Inputs of several runs in one file."""

from pathlib import Path

import numpy as np

from openglm.runtimes.batches import read, save


def test_arrays_are_kept_in_their_order(tmp_path: Path) -> None:
    batches = [{"a": np.full(2, place), "b/c": np.zeros((place + 1, 2))} for place in range(12)]
    save(batches, tmp_path / "x.npz")
    found = read(tmp_path / "x.npz")
    assert len(found) == 12
    for one, other in zip(batches, found, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
