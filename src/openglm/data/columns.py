"""Which column of a table is the text, the image, the label: the names in use in the field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.data.dataset import Label, Sample
from openglm.errors import InputError, nearest

# Tried in this order, in lower case. A pair comes before its parts: QNLI's "question, sentence"
# is no single sentence, and STS-B has a "filename" beside its sentences.
_INPUTS: tuple[tuple[str, ...], ...] = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("#1 string", "#2 string"),
    ("text",),
    ("sentence",),
)
_IMAGES = ("image", "image_path", "path", "file_name", "filename")
_LABELS = ("gold_label", "label", "labels", "score", "target", "quality", "similarity", "class")

_NUMBER = re.compile(r"[+-]?(\d+|\d*\.\d+|\d+\.)([eE][+-]?\d+)?")


def mapping_of(names: Sequence[str], override: Mapping[str, str] | None) -> dict[str, str] | None:
    """From "text", "text_pair", "image", "label" to the columns that hold them; None where none fits.

    `override` says so for inputs, for the label, or both; its columns must be there.
    """
    known = {name.strip().lower(): name for name in reversed(names)}
    chosen = dict(override or {})
    for name in chosen.values():
        if name not in names:
            raise InputError(f"There is no column '{name}'.", nearest(name, names))
    columns = {key: name for key, name in chosen.items() if key != "label"}
    if not columns:
        texts = next((found for found in _INPUTS if all(name in known for name in found)), None)
        image = next((name for name in _IMAGES if name in known), None)
        if texts is not None:
            columns = dict(zip(("text", "text_pair"), (known[name] for name in texts), strict=False))
        elif image is not None:
            columns = {"image": known[image]}
        else:
            return None
    label = chosen.get("label") or next((known[name] for name in _LABELS if name in known), None)
    if label is not None and label not in columns.values():
        columns["label"] = label
    return columns


def sample_of(row: Any, columns: Mapping[str, str], place: str) -> Sample:
    """The sample of a row; `place` names the row in errors."""
    if not isinstance(row, Mapping):
        raise InputError(f"{place} is no mapping of columns to values.", "Correct or remove it.")
    values: dict[str, Any] = {}
    for key, column in columns.items():
        value = row.get(column)
        if value is None:
            raise InputError(f"{place} has no '{column}'.", "Fill it in or remove the row.")
        values[key] = value
    for key in ("text", "text_pair"):
        if not isinstance(values.get(key, ""), str):
            raise InputError(
                f"{place} has a {type(values[key]).__name__} in '{columns[key]}' where a text belongs.",
                "Correct or remove it.",
            )
    label = values.pop("label", None)
    return Sample(values, None if label is None else label_of(label, place))


def label_of(value: Any, place: str) -> Label:
    """A label as a number where it is one, or else as its name."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # a numpy scalar
    if isinstance(value, str):
        value = value.strip()
        if not value:
            raise InputError(f"{place} has an empty label.", "Fill it in or remove the row.")
        if _NUMBER.fullmatch(value):
            number = float(value)
            return int(value) if value.lstrip("+-").isdigit() else number
        return str(value)
    if isinstance(value, bool | int | float):
        return int(value) if isinstance(value, bool) else value
    raise InputError(f"{place} has a label of type {type(value).__name__}.", "A label is a number or a name.")
