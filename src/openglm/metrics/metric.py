"""What a metric is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from openglm.errors import InputError

Arrays = Mapping[str, np.ndarray | Sequence[np.ndarray]]
"""By output name: an array (samples, ...), or a list of one array a sample where their shapes differ."""

_MAIN = ("logits", "sentence_embedding", "embedding", "embeddings", "pooler_output")


@dataclass(frozen=True)
class Evaluation:
    """A candidate's outputs over all evaluation samples, and what they can be compared with."""

    outputs: Arrays
    reference: Arrays | None = None
    """The original model's outputs over the same samples."""
    labels: np.ndarray | None = None
    """One number or name a sample, shape (samples,)."""
    task: str = "generic"
    """As `Model.task`: "embedding", "classification", "image-classification", ..."""
    pairs: bool = False
    """True where each sample is two texts that an embedding model has run one by one: its outputs
    then have a second axis of size 2, (samples, 2, ...)."""
    classes: tuple[str, ...] | None = None
    """Names of a classifier's outputs in order, to find labels given by name."""


@dataclass(frozen=True)
class Score:
    """One figure that is compared, and others that explain it."""

    value: float
    details: dict[str, float] = field(default_factory=dict)


class Metric(Protocol):
    """Judges a candidate by its outputs."""

    @property
    def name(self) -> str: ...
    @property
    def needs_labels(self) -> bool: ...
    @property
    def needs_reference(self) -> bool: ...
    @property
    def higher_is_better(self) -> bool: ...

    def score(self, evaluation: Evaluation) -> Score:
        """The score; raises `InputError` where the outputs or labels are none that it can judge."""
        ...


def main_output(arrays: Arrays, metric: str) -> np.ndarray:
    """The output that a task is about: by its usual name, else the first; shape (samples, ...).

    Raises `InputError` where there is none, it holds no samples, or their shapes differ.
    """
    name = next((name for name in _MAIN if name in arrays), next(iter(arrays), None))
    if name is None or not len(arrays[name]):
        raise InputError(f"{metric} was given no outputs.", "Evaluate at least one sample.")
    output = arrays[name]
    if not isinstance(output, np.ndarray):
        if len({np.shape(row) for row in output}) > 1:
            raise InputError(
                f"{metric} cannot judge the output '{name}', whose shape differs between samples.",
                "Use fidelity, or a metric of your own (module:function).",
            )
        output = np.stack(output)
    return output


def checked_labels(evaluation: Evaluation, count: int, metric: str) -> np.ndarray:
    """The labels, one for each of `count` samples; raises `InputError` where they are not there."""
    if evaluation.labels is None:
        raise InputError(f"{metric} needs labels.", "Give labelled data, or use fidelity.")
    labels = np.asarray(evaluation.labels)
    if labels.shape != (count,):
        raise InputError(
            f"{metric} was given labels of shape {list(labels.shape)} for {count} samples.",
            "Give one label a sample.",
        )
    return labels
