"""Tables: .tsv and .csv with a header, .jsonl or .json, .parquet, and .txt with a text on each line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from openglm.data.columns import mapping_of, sample_of
from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError, MissingExtraError

Row = tuple[int, Any]
"""Number of the line (of the row in a parquet file), from 1, and the values by column."""

# GLUE's CoLA has no header: source, label, the author's mark, sentence.
_COLA = ("source", "label", "mark", "sentence")

_PARQUET_BATCH = 256


def reads(path: Path) -> bool:
    """Whether this loader is the one for a path."""
    return path.suffix.lower() in _ROWS and path.is_file()


def load(path: Path, columns: Mapping[str, str] | None) -> Dataset:
    """The table as a data set; read line by line (.parquet: by row groups), whatever its size.

    The first row is looked at now. Raises `InputError` where the file is empty or broken or has no
    column that a model can take; a row further on raises when it is reached.
    """
    rows = _ROWS[path.suffix.lower()]
    first = next(rows(path), None)
    if first is None:
        raise InputError(f"{path} holds no samples.", "Give a file with at least one row.")
    names = list(first[1]) if isinstance(first[1], Mapping) else []
    found = mapping_of(names, columns)
    if found is None:
        raise InputError(
            f"{path} has no column that a model can take; its columns are {', '.join(map(str, names))}.",
            "Name one with columns, such as text=NAME, or rename it to 'text' or 'image'.",
        )

    def read() -> Iterator[Sample]:
        for number, row in rows(path):
            sample = sample_of(row, found, f"{path}:{number}")
            if "image" in sample.inputs:
                sample.inputs["image"] = _image(sample.inputs["image"], path.parent)
            yield sample

    return Dataset(path.name, read, labelled="label" in found)


def _image(value: Any, folder: Path) -> Any:
    """An image beside the table, or the bytes that Hugging Face keeps inside of it."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    return folder / value if isinstance(value, str) else value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, without a byte order mark; raises `InputError` if not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number} is not UTF-8 text.", "Save the file again in UTF-8."
                ) from error


def tsv(path: Path, *, skip_broken: bool = False) -> Iterator[Row]:
    """Fields between tabs; quotation marks mean nothing, as in GLUE.

    Raises `InputError` at a row that has more or fewer fields than the first, unless such are skipped.
    """
    fields = ((number, text.split("\t")) for number, line in _lines(path) if (text := line.rstrip("\r\n")))
    return _named(path, fields, skip_broken)


def _csv(path: Path) -> Iterator[Row]:
    """Comma-separated fields as RFC 4180 has them: a quoted one may hold commas and line ends."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)

    def fields() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise InputError(
                f"{path}:{reader.line_num} is broken: {error}.", "Correct or remove the row."
            ) from error

    return _named(path, fields())


def _named(path: Path, fields: Iterator[tuple[int, list[str]]], skip_broken: bool = False) -> Iterator[Row]:
    header = next(fields, None)
    if header is None:
        return
    names = tuple(header[1])
    if len(names) == len(_COLA) and names[1] in ("0", "1") and names[2] in ("", "*"):
        names = _COLA
        fields = chain([header], fields)
    for number, values in fields:
        if len(values) != len(names):
            if skip_broken:
                continue
            raise InputError(
                f"{path}:{number} has {len(values)} fields where the first line has {len(names)}.",
                "Correct or remove the row.",
            )
        yield number, dict(zip(names, values, strict=True))


def _json(path: Path) -> Iterator[Row]:
    """One object a line; or one array of objects, which is read whole."""
    first = next(((number, line) for number, line in _lines(path) if line.strip()), None)
    if first is not None and first[1].lstrip().startswith("["):
        text = "".join(line for _, line in _lines(path))
        yield from enumerate(_parsed(text, f"{path}"), 1)
        return
    for number, line in _lines(path):
        if line.strip():
            yield number, _parsed(line, f"{path}:{number}")


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}.", "Correct or remove it.") from error


def _txt(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if text := line.strip():
            yield number, {"text": text}


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow, which reads parquet files,", "tables") from error
    try:
        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=_PARQUET_BATCH)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as parquet: {error}.", "Check that the file is whole."
        ) from error


_ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".tsv": tsv,
    ".csv": _csv,
    ".jsonl": _json,
    ".json": _json,
    ".ndjson": _json,
    ".txt": _txt,
    ".parquet": _parquet,
}
