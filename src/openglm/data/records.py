"""Samples that a program has at hand: dictionaries, or `Sample`s."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from openglm.data.columns import mapping_of, sample_of
from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError


def load(records: Iterable[Any], columns: Mapping[str, str] | None, limit: int | None) -> Dataset:
    """A data set of Python objects: `Sample`s, or mappings with the columns that a table may have.

    A mapping with no such column gives its entries as inputs by name, "label" aside. What can be
    iterated only once (a generator) is read into memory, no further than `limit`.
    """
    if isinstance(records, Iterator):
        records = list(islice(records, limit))
    first = next(iter(records), None)
    if first is None:
        raise InputError("The data hold no samples.", "Give at least one.")
    if isinstance(first, Sample):
        return Dataset("samples", lambda: iter(records), labelled=first.label is not None)
    if not isinstance(first, Mapping):
        raise InputError(
            f"A sample is of type {type(first).__name__}.",
            'Give dictionaries such as {"text": "...", "label": 1}.',
        )
    found = mapping_of(list(first), columns) or {name: name for name in first}

    def read() -> Iterator[Sample]:
        for number, record in enumerate(records, 1):
            yield sample_of(record, found, f"Sample {number}")

    return Dataset("samples", read, labelled="label" in found)
