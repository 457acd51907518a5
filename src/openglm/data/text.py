"""Inputs without any data of the user's: English text that every Python carries, and noise."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_MARKUP = re.compile(r"[*`|^~<>{}\\]|[:=]=")


def calibration_text() -> Dataset:
    """Sentences and paragraphs of 4 to 120 words from Python's own reference manual, without labels.

    In a fixed order that mixes topics and lengths, no text twice; other Python versions have other
    words. It is English about one subject: enough to see the ranges that activations take, no
    substitute for the user's own data.
    """
    return Dataset("Python's reference manual", _manual, labelled=False)


def _manual() -> Iterator[Sample]:
    from pydoc_data.topics import topics

    texts = {text for topic in topics.values() for text in _texts(topic)}
    # By checksum: an order that is the same everywhere and has nothing to do with the content.
    for text in sorted(texts, key=lambda text: (zlib.crc32(text.encode()), text)):
        yield Sample({"text": text})


def _texts(topic: str) -> Iterator[str]:
    """The prose in a topic: of its paragraphs some whole and the others cut into sentences.

    Never both, or one half of the data would tell of the other.
    """
    for block in re.split(r"\n\s*\n", topic):
        # Indented blocks are code and grammar.
        if block.startswith((" ", "\n", "*", "-", "+")):
            continue
        paragraph = " ".join(block.split())
        if not paragraph.endswith((".", "!", "?")) or _MARKUP.search(paragraph):
            continue
        whole = zlib.crc32(paragraph.encode()) % 3 == 0
        for text in [paragraph] if whole else _SENTENCE_END.split(paragraph):
            if 4 <= len(text.split()) <= 120:
                yield text


class Spec(Protocol):
    """What an input of a model is: its name, numpy type name, and shape (a free dimension by name)."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str, ...]: ...


def noise(specs: Sequence[Spec], count: int, seed: int, sizes: Mapping[str, int] | None = None) -> Dataset:
    """`count` samples of random arrays, one for each input, the first axis (the batch) left out.

    Floats are standard normal; integers from 0 to 9, in a mask ones; booleans even. A free dimension
    takes its size from `sizes`, else 16. The same seed gives the same samples.
    """
    if count < 1:
        raise InputError(f"{count} samples were asked for.", "Give a number from 1 on.")
    free = dict(sizes or {})

    def read() -> Iterator[Sample]:
        generator = np.random.default_rng(seed)
        for _ in range(count):
            yield Sample({spec.name: _random(spec, generator, free) for spec in specs})

    return Dataset("noise", read, labelled=False)


def _random(spec: Spec, generator: np.random.Generator, sizes: Mapping[str, int]) -> np.ndarray:
    shape = [size if isinstance(size, int) else sizes.get(size, 16) for size in spec.shape[1:]]
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if "mask" in spec.name:
        return np.ones(shape, dtype)
    if dtype.kind in "iub":
        return generator.integers(0, 2 if dtype.kind == "b" else 10, shape).astype(dtype)
    raise InputError(f"Input '{spec.name}' has type {spec.dtype}.", "Noise is made of numbers; give data.")
