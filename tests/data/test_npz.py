"""Arrays in .npz: streamed as numpy saved them, and never unpickled."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.data import open_data
from openglm.errors import InputError

Save = Callable[..., None]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_by_sample(save: Save, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "x": generator.standard_normal((7, 3, 4)).astype(np.float32),
        "fortran": np.asfortranarray(generator.standard_normal((7, 5))),
        "big_endian": np.arange(7, dtype=">i4"),
        "flag": np.arange(7) % 2 == 0,
        "empty": np.zeros((7, 0)),
    }
    save(tmp_path / "a.npz", label=np.array(list("abcdefg")), **arrays)
    dataset = open_data(tmp_path / "a.npz")
    for _ in range(2):
        samples = list(dataset)
        assert [sample.label for sample in samples] == list("abcdefg")
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.stack([sample.inputs[name] for sample in samples]), array)


def test_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 1)))
    dataset = open_data(tmp_path / "a.npz")
    assert not dataset.labelled
    assert [sample.label for sample in dataset] == [None, None]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_file(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=np.zeros((2000, 1000), np.float32))  # 8 MB
    tracemalloc.start()
    assert sum(1 for _ in open_data(tmp_path / "a.npz")) == 2000
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 1_000_000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 1)), "y": np.zeros((3, 1))}, "disagree"),
        ({"x": np.float32(1)}, "disagree"),
        ({"x": np.zeros((0, 4))}, "no samples"),
        ({"label": np.zeros(3)}, "holds no inputs"),
        ({}, "holds no inputs"),
        ({"x": np.zeros((3, 2)), "label": np.zeros((3, 2))}, "one number or name"),
        ({"x": np.array([{}, {}], dtype=object)}, "never unpickled"),
    ],
)
def test_arrays_that_are_no_samples(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize("size", [0, 30, 700, 1500])
def test_a_truncated_file(size: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 10)))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:size])
    with pytest.raises(InputError, match="cannot be read"):
        open_data(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_is_found(save: Save, tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=np.random.default_rng(0).standard_normal((200, 100)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        list(open_data(tmp_path / "a.npz"))


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"not an array")
    with pytest.raises(InputError, match=r"x\.npy of .* cannot be read"):
        open_data(tmp_path / "a.npz")
