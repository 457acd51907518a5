"""Graphs of fixed sizes in place of one whose sizes are open, for engines that want them fixed.

A text, say, is filled up with zeros to the next of several lengths, and what was filled up is cut off the
outputs again: zeros in a mask are what tells a network that there is nothing. Rows of a batch run one after
another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.device.host import usable_cores
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec, identifier
from openglm.runtimes.engine import check_threads, reason

if TYPE_CHECKING:
    import torch

Batch = Mapping[str, np.ndarray]


class Buckets(BaseModel):
    """Which sizes there are a graph for."""

    model_config = ConfigDict(frozen=True)

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: tuple[dict[str, int], ...]
    """The sizes of the open dimensions, by graph, the smallest first; the rows of a batch are not among
    them."""

    @classmethod
    def of(
        cls,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        choices: Mapping[str, Sequence[int]],
    ) -> Buckets:
        """One graph for each combination of the choices; raises `InputError` for a dimension that has
        none."""
        whole = cls(inputs=tuple(inputs), outputs=tuple(outputs), sizes=())
        named = [name for name in dict.fromkeys(_open(inputs)) if name != whole.rows]
        if missing := [name for name in named if not choices.get(name)]:
            raise InputError(
                f"The engine wants fixed sizes, and there are none for '{missing[0]}'.",
                f"Give some: --sizes {missing[0]}=16,64.",
            )
        every = product(*(sorted(set(choices[name])) for name in named))
        sizes = tuple(dict(zip(named, values, strict=True)) for values in every)
        return whole.model_copy(update={"sizes": sizes})

    @classmethod
    def read(cls, target: Path) -> Buckets:
        """Those of a model's file; raises `OSError` and `ValueError` where they are not there, or broken."""
        return cls.model_validate_json(beside(target).read_text(encoding="utf-8"))

    def write(self, target: Path) -> None:
        """Keep them beside a model's file."""
        beside(target).write_text(self.model_dump_json(), encoding="utf-8")

    @cached_property
    def rows(self) -> str | None:
        """The dimension of a batch's rows: the first of every input, where it is open."""
        first = {spec.shape[0] if spec.shape else None for spec in self.inputs}
        (name,) = first if len(first) == 1 else (None,)
        return name if isinstance(name, str) else None

    def shapes(self, place: int) -> dict[str, tuple[int, ...]]:
        """The shapes of one graph's inputs; its batch has one row."""
        known = {**self.sizes[place], **({self.rows: 1} if self.rows else {})}
        return {spec.name: tuple(_size(size, known) for size in spec.shape) for spec in self.inputs}

    def example(self, place: int) -> dict[str, torch.Tensor]:
        """Ones in the shapes of one graph's inputs, by `identifier` of their names: what every vocabulary and
        mask has."""
        import torch

        shapes = self.shapes(place)
        return {
            identifier(spec.name): torch.ones(shapes[spec.name], dtype=getattr(torch, spec.dtype))
            for spec in self.inputs
        }

    def run(self, arrays: Batch, call: Callable[[int, Batch], Batch]) -> dict[str, np.ndarray]:
        """What `call`, given a graph's place in `sizes` and inputs of its shapes, makes of arrays of any
        size; there inputs and outputs have the `identifier` of their names. Raises `InputError` where no
        graph is large enough."""
        given = {
            size: arrays[spec.name].shape[axis]
            for spec in self.inputs
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        place = self._place(given)
        shapes = self.shapes(place)
        found = []
        for row in range(given.pop(self.rows, 1) if self.rows else 1):
            own = {name: array[row : row + 1] if self.rows else array for name, array in arrays.items()}
            filled = {identifier(name): _filled(own[name], shape) for name, shape in shapes.items()}
            found.append(self._cut(call(place, filled), given))
        return {spec.name: np.concatenate([each[spec.name] for each in found]) for spec in self.outputs}

    def _place(self, given: Mapping[str, int]) -> int:
        for place, sizes in enumerate(self.sizes):
            if all(given[name] <= size for name, size in sizes.items()):
                return place
        largest = ", ".join(f"{name} {size}" for name, size in self.sizes[-1].items())
        raise InputError(f"The input is larger than what there is a graph for: {largest}.", "Cut it.")

    def _cut(self, outputs: Batch, given: Mapping[str, int]) -> dict[str, np.ndarray]:
        cut = {}
        for spec in self.outputs:
            corner = tuple(slice(given.get(str(size))) for size in spec.shape)
            # Engines of phones know no 64 bits.
            cut[spec.name] = outputs[identifier(spec.name)][corner].astype(spec.dtype, copy=False)
        return cut


class BucketRunner(ABC):
    """A model of fixed graphs, loaded in an engine."""

    title: ClassVar[str]
    """Of the engine."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Raises `InputError` for a file that the engine does not take."""
        check_threads(threads)
        try:
            self._buckets = Buckets.read(path)
            self._open(path, threads or usable_cores(), len(self._buckets.sizes))
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"{self.title} cannot load {path.name}: {reason(error)}.", "Export the bundle again."
            ) from error
        self.inputs = [spec.name for spec in self._buckets.inputs]

    def run(self, arrays: Batch) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        return self._buckets.run(arrays, self._call)

    @abstractmethod
    def _open(self, path: Path, threads: int, graphs: int) -> None:
        """Load as many graphs, which are named by `graph_name`."""

    @abstractmethod
    def _call(self, place: int, arrays: Batch) -> Batch:
        """Run one graph."""


def graph_name(place: int) -> str:
    """What the graph at a place in `Buckets.sizes` is called in a model's file."""
    return f"size_{place}"


def beside(target: Path) -> Path:
    """The file that tells a model's sizes."""
    return target.with_name(f"{target.name}.json")


def _open(specs: Sequence[TensorSpec]) -> list[str]:
    return [size for spec in specs for size in spec.shape if isinstance(size, str)]


def _size(size: int | str, known: Mapping[str, int]) -> int:
    return known[size] if isinstance(size, str) else size


def _filled(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.pad(array, [(0, size - have) for size, have in zip(shape, array.shape, strict=True)])
