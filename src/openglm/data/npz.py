"""Arrays in an .npz file: one for each input of the model, the first axis counting the samples."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from openglm.data.columns import label_of
from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError

_LABEL = "label"


def reads(path: Path) -> bool:
    """Whether this loader is the one for a path."""
    return path.suffix.lower() == ".npz" and path.is_file()


def load(path: Path, columns: Mapping[str, str] | None) -> Dataset:
    """The arrays as samples by input name; an array "label" of shape (samples,) gives the labels.

    Each array is read sample by sample, compressed or not, whatever its size (one in Fortran order
    is read whole). Nothing is unpickled. Raises `InputError` where the file is broken or its arrays
    disagree on the number of samples.
    """
    if columns:
        raise InputError("An .npz file has no columns.", "Name its arrays as the model's inputs.")
    with _opened(path) as archive, ExitStack() as stack:
        arrays = _arrays(path, archive, stack)
    if not set(arrays) - {_LABEL}:
        raise InputError(f"{path} holds no inputs.", "Save one array for each input of the model.")
    counts = {name: array.shape[0] for name, array in arrays.items() if array.shape}
    if len(counts) < len(arrays) or len(set(counts.values())) > 1:
        sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise InputError(
            f"The arrays of {path} disagree on the number of samples: {sizes}.",
            "The first axis of each counts the samples.",
        )
    if not all(counts.values()):
        raise InputError(f"{path} holds no samples.", "Give arrays with at least one.")
    if _LABEL in arrays and len(arrays[_LABEL].shape) > 1:
        raise InputError(
            f"The label array of {path} has shape {list(arrays[_LABEL].shape)}.",
            "Give one number or name for each sample.",
        )

    def read() -> Iterator[Sample]:
        with _opened(path) as archive, ExitStack() as stack:
            members = _arrays(path, archive, stack)
            for number in range(next(iter(counts.values()))):
                inputs = {name: _row(member, path, number) for name, member in members.items()}
                label = inputs.pop(_LABEL, None)
                place = f"{path}, sample {number}"
                yield Sample(inputs, None if label is None else label_of(label, place))

    return Dataset(path.name, read, labelled=_LABEL in arrays)


class _Array:
    """An array of the archive, read from its first sample to its last."""

    def __init__(self, file: IO[bytes]) -> None:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, fortran, self.dtype = header(file)
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects, which are never unpickled")
        self._file = file
        self._size = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._whole: np.ndarray | None = None
        if fortran and len(self.shape) > 1:
            flat = np.frombuffer(file.read(), self.dtype, math.prod(self.shape))
            self._whole = flat.reshape(self.shape, order="F")

    def row(self, number: int) -> np.ndarray:
        """The next sample, which is that of this number."""
        if self._whole is not None:
            return np.ascontiguousarray(self._whole[number])
        data = self._file.read(self._size)
        if len(data) < self._size:
            raise ValueError("it ends early")
        return np.frombuffer(data, self.dtype, math.prod(self.shape[1:])).reshape(self.shape[1:])


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(
            f"{path} cannot be read as .npz: {error}.", "Check that the file is whole."
        ) from error


def _arrays(path: Path, archive: zipfile.ZipFile, stack: ExitStack) -> dict[str, _Array]:
    """The arrays by name, each at its first sample."""
    arrays = {}
    for member in archive.namelist():
        try:
            arrays[member.removesuffix(".npy")] = _Array(stack.enter_context(archive.open(member)))
        except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise _broken(path, member, error) from error
    return arrays


def _row(array: _Array, path: Path, number: int) -> np.ndarray:
    try:
        return array.row(number)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _broken(path, f"sample {number}", error) from error


def _broken(path: Path, part: str, error: Exception) -> InputError:
    return InputError(f"{part} of {path} cannot be read: {error}.", "Save the arrays again with numpy.savez.")
