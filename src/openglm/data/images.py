"""A folder of images; where its subfolders hold them, the subfolders are the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def reads(path: Path) -> bool:
    """Whether this loader is the one for a path."""
    return path.is_dir()


def load(path: Path, columns: Mapping[str, str] | None) -> Dataset:
    """The images as samples {"image": path}; a label is the number of its class, classes sorted by name.

    Images come two by two from each class in turn, so that the first few samples, and each half,
    hold every class. Names are kept in memory, pictures are not. Raises `InputError` where there
    are none, or some stand beside class folders.
    """
    if columns:
        raise InputError("A folder of images has no columns.", "Leave columns out.")
    loose = _images(path)
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    classes = {folder.name: _images(folder) for folder in folders}
    if not loose and not any(classes.values()):
        raise InputError(
            f"{path} holds no images.", "Put them into it, or into one subfolder for each label."
        )
    if loose and any(classes.values()):
        raise InputError(
            f"{path} holds images both beside and inside of its subfolders.",
            "Put every image into the subfolder of its label.",
        )
    if loose:
        return Dataset(path.name, lambda: (Sample({"image": image}) for image in loose), labelled=False)

    def read() -> Iterator[Sample]:
        for start in range(0, max(map(len, classes.values())), 2):
            for label, images in enumerate(classes.values()):
                for image in images[start : start + 2]:
                    yield Sample({"image": image}, label)

    return Dataset(path.name, read, labelled=True, classes=tuple(classes))


def _images(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )
