"""A data set: samples that are read again each time they are asked for, one after another."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from openglm.errors import InputError

Label = float | int | str


@dataclass(frozen=True)
class Sample:
    """What goes into the model, by name ("text", "text_pair", "image", or the model's input names)."""

    inputs: dict[str, Any]
    label: Label | None = None


class Dataset:
    """Samples in a fixed order, streamed: iterating reads the source from its start, again each time.

    `read` starts a reading. `classes` are the names of the labels 0, 1, ..., where the source names them.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Iterator[Sample]],
        *,
        labelled: bool,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.labelled = labelled
        self.classes = classes
        self._read = read

    def __iter__(self) -> Iterator[Sample]:
        return self._read()

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, labelled={self.labelled})"

    def take(self, count: int) -> Dataset:
        """The first `count` samples; no more than these are read."""
        if count < 1:
            raise InputError(f"{count} samples were asked for.", "Give a number from 1 on.")
        return self._slice(self.name, 0, count, 1)

    def spread(self, count: int) -> Dataset:
        """At most `count` samples from all over the data, which are read once to count them.

        Data is often sorted, so its first samples would not stand for it; or in a regular order, which
        equal steps would fall into. So one is drawn from each of `count` equal parts, always the same.
        """
        if count < 1:
            raise InputError(f"{count} samples were asked for.", "Give a number from 1 on.")
        total = sum(1 for _ in self)
        if total <= count:
            return self
        draws = random.Random(count)
        picked = {int((part + draws.random()) * total / count) for part in range(count)}
        return Dataset(
            self.name,
            lambda: (sample for number, sample in enumerate(self._read()) if number in picked),
            labelled=self.labelled,
            classes=self.classes,
        )

    def halves(self) -> tuple[Dataset, Dataset]:
        """The even and the odd samples: what one half tunes, the other can judge."""
        return (
            self._slice(f"{self.name} (even)", 0, None, 2),
            self._slice(f"{self.name} (odd)", 1, None, 2),
        )

    def _slice(self, name: str, start: int, stop: int | None, step: int) -> Dataset:
        return Dataset(
            name,
            lambda: islice(self._read(), start, stop, step),
            labelled=self.labelled,
            classes=self.classes,
        )
