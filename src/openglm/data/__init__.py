"""What a model is tuned and judged on: `open_data` reads a user's data, whatever form they have.

A loader is a file of this folder with `reads(path)` and `load(path, columns)`; adding one is enough.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from openglm.data import records
from openglm.data.dataset import Dataset, Label, Sample
from openglm.data.text import calibration_text, noise
from openglm.errors import InputError

__all__ = ["Dataset", "Label", "Sample", "calibration_text", "noise", "open_data"]


def open_data(
    source: str | PathLike[str] | Dataset | Iterable[Any],
    *,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """A data set from a path (.tsv, .csv, .jsonl, .json, .txt, .parquet, .npz, a folder of images),
    from dictionaries or `Sample`s, or from a data set.

    `limit` takes the first samples only. `columns` says which column of a table is the "text",
    "text_pair", "image" or "label" where their names do not. Files are read as they are iterated,
    never whole. Raises `InputError` on data that cannot be used.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit} leaves no samples.", "Give a number from 1 on.")
    if isinstance(source, str | PathLike):
        dataset = _from_path(Path(source), columns)
    elif isinstance(source, Dataset):
        dataset = source
    elif isinstance(source, Iterable):
        dataset = records.load(source, columns, limit)
    else:
        raise InputError(
            f"Data of type {type(source).__name__} cannot be read.", "Give a path or a list of dictionaries."
        )
    return dataset if limit is None else dataset.take(limit)


def _from_path(path: Path, columns: Mapping[str, str] | None) -> Dataset:
    if not path.exists():
        raise InputError(f"There is no file or folder {path}.", "Check the path.")
    for found in pkgutil.iter_modules(__path__):
        loader = import_module(f"{__name__}.{found.name}")
        if hasattr(loader, "reads") and loader.reads(path):
            dataset: Dataset = loader.load(path, columns)
            return dataset
    raise InputError(
        f"{path} is of no known kind.",
        "Give .tsv, .csv, .jsonl, .json, .txt, .parquet, .npz or a folder of images.",
    )
