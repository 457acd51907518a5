"""A folder of images: classes sorted, every class in each half."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.data import open_data
from openglm.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_subfolders_are_labels(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dog/1.png",
        "cat/2.JPG",
        "cat/1.jpeg",
        "cat/note.txt",
        ".hidden/x.png",
        "bird/.x.png",
        "README",
    )
    dataset = open_data(tmp_path)
    assert dataset.classes == ("bird", "cat", "dog")
    found = [(sample.inputs["image"].relative_to(tmp_path).as_posix(), sample.label) for sample in dataset]
    assert found == [("cat/1.jpeg", 1), ("cat/2.JPG", 1), ("dog/1.png", 2)]
    assert dataset.labelled
    assert dataset.take(1).classes == dataset.classes


def test_every_class_is_in_each_half_and_among_the_first(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{number}.png" for label in "abcd" for number in range(6)), "a/9.png")
    for half in open_data(tmp_path).halves():
        labels = [sample.label for sample in half]
        assert {labels.count(label) for label in range(4)} <= {3, 4}
    assert {sample.label for sample in open_data(tmp_path, limit=8)} == {0, 1, 2, 3}
    assert len(list(open_data(tmp_path))) == 25


def test_no_labels_without_subfolders(tmp_path: Path) -> None:
    dataset = open_data(touch(tmp_path, "b.png", "a.webp"))
    assert [sample.inputs["image"].name for sample in dataset] == ["a.webp", "b.png"]
    assert not dataset.labelled


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        open_data(touch(tmp_path, "cat/1.txt"))
    with pytest.raises(InputError, match="beside"):
        open_data(touch(tmp_path, "1.png", "cat/1.png"))
    with pytest.raises(InputError, match="no columns"):
        open_data(tmp_path, columns={"image": "x"})
