"""A data set as a model's input tensors, kept compactly in memory and given in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError, nearest
from openglm.model.model import Model
from openglm.model.processors.image_processor import ImageProcessor
from openglm.model.tensor import TensorSpec
from openglm.training.losses import main_output

WINDOW = 50
"""Batches' worth of shuffled rows that are sorted by length together: the fewer, the more is padding,
the more, the less random is what shares a batch."""
_CHUNK = 4096


@dataclass(frozen=True)
class Batch:
    """Rows of a data set."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    """(rows,), int64 classes or, of a model with one output, float32 values."""
    indices: torch.Tensor
    """(rows,), int64: which rows of `Samples` these are."""

    def to(self, device: torch.device) -> Batch:
        """This batch on a device."""
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return Batch(inputs, None if self.labels is None else self.labels.to(device), self.indices)


class _Rows:
    """One input of every row: in chunks, each one flat array cut at offsets along its first axis."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shape: tuple[int, ...] | None = None
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []
        self._open: list[np.ndarray] = []

    def append(self, row: np.ndarray) -> None:
        if self._shape is not None and row.shape[1:] != self._shape[1:]:
            raise InputError(
                f"The samples' '{self._name}' have the shapes {list(self._shape)} and {list(row.shape)}.",
                "Give samples of one shape; only the first axis may differ.",
            )
        self._shape = row.shape
        self._open.append(row)
        if len(self._open) == _CHUNK:
            self.close()

    def close(self) -> None:
        if self._open:
            offsets = np.cumsum([0, *(len(row) for row in self._open)])
            # Of rows laid out otherwise, such as channels last, numpy makes an array laid out so, too.
            self._chunks.append((np.ascontiguousarray(np.concatenate(self._open)), offsets))
            self._open = []

    def __getitem__(self, index: int) -> np.ndarray:
        flat, offsets = self._chunks[index // _CHUNK]
        place = index % _CHUNK
        return flat[offsets[place] : offsets[place + 1]]

    def hash_into(self, digest: Any) -> None:
        for flat, offsets in self._chunks:
            digest.update(f"{self._name} {flat.dtype} {self._shape}".encode())
            digest.update(flat.data)
            digest.update(offsets.data)

    def lengths(self) -> np.ndarray:
        return np.concatenate([np.diff(offsets) for _, offsets in self._chunks])


class Samples:
    """The rows that a model makes of a data set, which is read once, and at most `limit` of its samples.

    Texts are kept as token ids, pictures as bytes where the model has a processor for them; arrays
    as they come. Both texts of a pair become rows of their own for an encoder, without a label.
    `limit` takes samples from all over the data.

    `labels` says whether the data's labels are wanted, which are used where the model is a
    classifier. Names are found among the names of the model's classes, or the data's, or else
    numbered in sorted order. A model with one output takes numbers. Raises `InputError` for
    samples that do not fit, for a label that is none of the model's classes, and for labels that
    are all the same class.
    """

    def __init__(
        self, model: Model, dataset: Dataset, *, limit: int | None = None, labels: bool = True
    ) -> None:
        self.name = dataset.name
        self._processor = model.processor
        # Where the processor makes the arrays, they fit; asking for a model's inputs exports it.
        self._specs: tuple[TensorSpec, ...] | None = None
        self._rows: dict[str, _Rows] = {}
        self._pixels: ImageProcessor | None = None
        if isinstance(model.processor, ImageProcessor):
            self._pixels = model.processor.model_copy(update={"resize": False})
        self.labels: torch.Tensor | None = None
        """(rows,) as in `Batch`, where there are labels."""
        found = []
        count = 0
        for sample in dataset if limit is None else dataset.spread(limit):
            rows = self._of(model, sample)
            for row in rows:
                if self._rows and row.keys() != self._rows.keys():
                    raise InputError(
                        f"A sample of {dataset.name} has {', '.join(row)} where others have "
                        f"{', '.join(self._rows)}.",
                        "Give every sample the same inputs.",
                    )
                for name, array in row.items():
                    self._rows.setdefault(name, _Rows(name)).append(array)
            count += len(rows)
            found.append(sample.label)
        if not count:
            raise InputError(f"{dataset.name} holds no sample.", "Give data to train on.")
        for rows_of_input in self._rows.values():
            rows_of_input.close()
        self.lengths: np.ndarray = np.max([rows.lengths() for rows in self._rows.values()], axis=0)
        """(rows,) of the longest input of each row along its first axis: a text's tokens."""
        masked = "attention_mask" in self._rows
        self._padded = masked or len(np.unique(self.lengths)) == 1
        classifies = model.task.endswith("classification")
        if labels and classifies and dataset.labelled and len(found) == count:
            self.labels = _labels(model, dataset, found, self._width(model))

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """These rows, padded on the right to the longest of them."""
        inputs = {
            name: self._tensor(name, [rows[int(i)] for i in indices]) for name, rows in self._rows.items()
        }
        chosen = torch.from_numpy(np.asarray(indices, np.int64))
        return Batch(inputs, None if self.labels is None else self.labels[chosen], chosen)

    def batches(self, size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the one numbered `start` on, rows of about one length together.

        The order follows from `seed` and `epoch`. Rows that do not fill a last batch are left out,
        others in each epoch. Where the model takes no attention mask, rows of a batch have one length.
        """
        random = np.random.default_rng((seed, epoch))
        order = random.permutation(len(self))
        order = order[: max(len(order) // size * size, min(size, len(order)))]
        groups: list[np.ndarray] = []
        for first in range(0, len(order), WINDOW * size):
            rows = order[first : first + WINDOW * size]
            rows = rows[np.argsort(-self.lengths[rows], kind="stable")]
            groups += [rows[at : at + size] for at in range(0, len(rows), size)]
        if not self._padded:
            groups = [part for group in groups for part in self._alike(group)]
        for number in random.permutation(len(groups))[start:]:
            yield self.batch(groups[number])

    def digest(self) -> str:
        """A hash of all rows and labels."""
        digest = hashlib.sha256()
        for rows in self._rows.values():
            rows.hash_into(digest)
        if self.labels is not None:
            digest.update(self.labels.numpy().data)
        return digest.hexdigest()

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every row once, the longest first."""
        order = np.argsort(-self.lengths, kind="stable")
        for first in range(0, len(order), size):
            group = order[first : first + size]
            for part in [group] if self._padded else self._alike(group):
                yield self.batch(part)

    def _alike(self, group: np.ndarray) -> list[np.ndarray]:
        changes = np.flatnonzero(np.diff(self.lengths[group])) + 1
        return np.split(group, changes)

    def _tensor(self, name: str, rows: list[np.ndarray]) -> torch.Tensor:
        if self._pixels is not None:
            return torch.from_numpy(self._pixels([{"image": row} for row in rows])[name])
        longest = max(map(len, rows))
        pad = getattr(self._processor, "pad_id", 0) if name == "input_ids" else 0
        stacked = np.full((len(rows), longest, *rows[0].shape[1:]), pad, self._type(name, rows[0]))
        for place, row in enumerate(rows):
            stacked[place, : len(row)] = row
        return torch.from_numpy(stacked)

    def _type(self, name: str, row: np.ndarray) -> np.dtype[Any]:
        if self._specs is None:
            return np.dtype(np.int64)  # a text's
        return np.dtype(next(spec.dtype for spec in self._specs if spec.name == name))

    def _of(self, model: Model, sample: Sample) -> list[dict[str, np.ndarray]]:
        """The rows of a sample, in the smallest types that hold them."""
        given = sample.inputs
        processor = model.processor
        if isinstance(processor, ImageProcessor) and "image" in given:
            # The pixels after resizing and cropping: what makes floats of them comes with the batch.
            plain = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 1.0, "channels": "RGB", "layout": "NHWC"}
            pixels = processor.model_copy(update=plain)([given])[processor.input]
            return [{processor.input: pixels[0].astype(np.uint8)}]
        if processor is not None and "text" in given:
            pair = model.task == "embedding" and "text_pair" in given
            texts = [{"text": given["text"]}, {"text": given["text_pair"]}] if pair else [given]
            made = [processor([text]) for text in texts]
            return [{name: _small(array[0]) for name, array in arrays.items()} for arrays in made]
        self._pixels = None
        self._specs = model.inputs
        return [_checked(model.inputs, given)]

    def _width(self, model: Model) -> int:
        with torch.no_grad():
            return int(main_output(model.module(**self.batch([0]).inputs)).shape[-1])


def _small(array: np.ndarray) -> np.ndarray:
    for kind in (np.uint8, np.int32):
        if array.size and np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
            return array.astype(kind)
    return array


def _checked(specs: tuple[TensorSpec, ...], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A sample of arrays by input name, without the axis that counts samples."""
    names = {spec.name for spec in specs}
    if set(given) != names:
        raise InputError(
            f"The data has {', '.join(given)} where the model takes {', '.join(map(str, specs))}.",
            "Name the columns or arrays after the model's inputs.",
        )
    checked = {}
    for spec in specs:
        row = np.asarray(given[spec.name])
        if len(spec.shape) < 2:
            raise InputError(
                f"The model's input {spec} has no axis beside the one that counts samples.",
                "Train a model whose inputs are (samples, values) at least.",
            )
        size = spec.shape[0] if isinstance(spec.shape[0], int) else 1
        fits = spec.check(np.broadcast_to(row[None], (size, *row.shape)))[0]
        # Kept in the narrower of its own type and the model's.
        checked[spec.name] = np.array(row if row.dtype.itemsize < fits.dtype.itemsize else fits)
    return checked


def check_labels(model: Model, dataset: Dataset) -> None:
    """Raise `InputError` where `Samples` would for the labels, before any sample is prepared."""
    if model.task.endswith("classification") and dataset.labelled:
        width = model.outputs[0].shape[-1]
        if isinstance(width, int):
            _labels(model, dataset, [sample.label for sample in dataset], width)


def _labels(model: Model, dataset: Dataset, found: list[Any], width: int) -> torch.Tensor:
    if any(label is None for label in found):
        raise InputError(f"Some samples of {dataset.name} have no label.", "Label all of them or none.")
    if width == 1:
        if wrong := [label for label in found if isinstance(label, str)]:
            raise InputError(
                f"The label '{wrong[0]}' is no number, and the model has one output, which is a value.",
                "Give numbers, or a model with an output for each class.",
            )
        return torch.tensor(found, dtype=torch.float32)
    named = model.class_names
    classes = dataset.classes
    if named is not None and classes is not None and set(named) == set(classes):
        # A folder's classes are numbered in the order of their names, a model's in its own.
        found = [classes[label] if isinstance(label, int) else label for label in found]
    if any(isinstance(label, str) for label in found):
        names = [str(label) for label in found]
        known = named if named is not None and set(names) <= set(named) else classes
        if known is None:
            known = tuple(sorted(set(names)))
        number = {name: index for index, name in enumerate(known)}
        if missing := [name for name in names if name not in number]:
            raise InputError(f"The label '{missing[0]}' is none of the classes.", nearest(missing[0], known))
        found = [number[name] for name in names]
    for label in found:
        if not float(label).is_integer() or not 0 <= label < width:
            raise InputError(
                f"The label {label} is none of the model's {width} classes.",
                f"Labels go from 0 to {width - 1}.",
            )
    if len(set(found)) == 1:
        raise InputError(
            f"Every label of {dataset.name} is {found[0]}, which teaches a model to answer nothing else.",
            "Give data of several classes, or learn from the teacher alone (alpha=1).",
        )
    return torch.tensor([int(label) for label in found])
