"""Feeding a model: calibration and evaluation batches from the user's data, or from what there is without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

import numpy as np

from openglm.bundle.manifest import Quality
from openglm.data import open_data
from openglm.data.dataset import Dataset, Label, Sample
from openglm.data.text import calibration_text, noise
from openglm.errors import InputError
from openglm.metrics.metric import Evaluation, Metric
from openglm.model.analysis.shapes import resolve
from openglm.model.model import Model
from openglm.model.tensor import check_inputs
from openglm.runtimes.engine import Runs
from openglm.search.bundled import Bundled

Batch = dict[str, np.ndarray]
SEED = 20


def sizes(model: Model, dims: Mapping[str, int] | None) -> dict[str, int]:
    """As `shapes.resolve`, but where the user gave no length, a text is not longer than the model takes."""
    found = resolve(model.graph, dims).dims
    longest = getattr(model.processor, "max_length", None)
    tokens = next((spec.shape[1:] for spec in model.inputs if spec.name == "input_ids"), ())
    for name in tokens:
        if longest and isinstance(name, str) and name in found and name not in (dims or {}):
            found[name] = min(found[name], longest)
    return found


class Feed:
    """One data set cut in two: the even samples calibrate, the odd ones judge.

    Samples run one at a time, at their own length, as they will on the device: the ranges that
    dynamic quantization finds depend on what shares a batch.
    """

    def __init__(
        self,
        model: Model | Bundled,
        data: Any,
        dims: Mapping[str, int],
        *,
        calibration_samples: int,
        evaluation_samples: int,
    ) -> None:
        self._model = model
        self._dims = dict(dims)
        if data is not None:
            dataset = data if isinstance(data, Dataset) else open_data(data)
            self.description = f"{dataset.name}: even samples calibrate, odd ones judge"
        elif isinstance(model, Model) and model.stand_ins is not None:
            dataset = model.stand_ins()
            self.description = f"no data was given: {dataset.name} calibrate (even) and judge (odd)"
        elif model.processor is not None and model.processor.kind == "text":
            dataset = calibration_text()
            self.description = (
                "no data was given: English sentences from Python's own manual calibrate (even ones) and "
                "judge (odd ones), without labels"
            )
        else:
            dataset = noise(model.inputs, 2 * max(calibration_samples, evaluation_samples), SEED, self._dims)
            self.description = (
                "no data was given: random noise calibrates and judges, which says little about real inputs; "
                "give --data for figures to rely on"
            )
        self.labelled = dataset.labelled
        self._classes = dataset.classes
        even, odd = dataset.halves()
        self.calibrating = even
        """The half that never judges, all of it."""
        self._calibration = even.spread(calibration_samples)
        self._evaluation = odd.spread(evaluation_samples)
        first = next(iter(self._evaluation), None)
        if first is None:  # a single sample must do for both
            self._evaluation = even.take(1)
            first = next(iter(self._evaluation), None)
        if first is None:
            raise InputError(f"{dataset.name} holds no sample.", "Give data with at least two.")
        self._pairs = model.task == "embedding" and "text_pair" in first.inputs
        self._first = self.batch(first)

    def of(self, model: Model) -> Feed:
        """The same samples for a model made of this one, which may have another tokenizer."""
        other = copy(self)
        other._model = model
        other._first = other.batch(next(iter(self._evaluation)))
        return other

    def batch(self, sample: Sample) -> Batch:
        """The model's inputs for one sample; both texts of a pair as a batch of two for an encoder."""
        model, given = self._model, sample.inputs
        if model.processor is not None and ("text" in given or "image" in given):
            if self._pairs:
                both: list[Mapping[str, Any]] = [{"text": given["text"]}, {"text": given["text_pair"]}]
                arrays = model.processor(both)
            else:
                arrays = model.processor([given])
        else:
            arrays = {}
            for spec in model.inputs:
                if spec.name not in given:
                    takes = ", ".join(map(str, model.inputs))
                    raise InputError(
                        f"The data has {', '.join(given)} where the model takes {takes}.",
                        "Name the columns or arrays after the model's inputs, or, for text and pictures, put "
                        "the model's tokenizer.json or preprocessor_config.json beside its .onnx file.",
                    )
                row = np.asarray(given[spec.name])
                if spec.shape:
                    count = spec.shape[0] if isinstance(spec.shape[0], int) else 1
                    row = np.repeat(row[None], count, axis=0)
                arrays[spec.name] = row
        return check_inputs(model.inputs, arrays)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of a classifier's outputs in order: the model's, or else those that the data number."""
        return self._model.class_names or self._classes

    def calibration(self) -> Iterator[Batch]:
        """The calibration batches, read anew at each call."""
        return (self.batch(sample) for sample in self._calibration)

    def numbered(self, dataset: Dataset) -> Iterator[tuple[Batch, float | None]]:
        """Samples as the model takes them, with their labels in its own numbers.

        Raises `InputError` for a label that is a name the model does not know.
        """
        named = self._model.class_names or ()
        for sample in dataset:
            label = None if sample.label is None else self._own(sample.label)
            if label is not None and str(label) in named:
                label = named.index(str(label))
            yield self.batch(sample), None if label is None else _number(label)

    def _own(self, label: Label) -> Label:
        """A label by the model's name for it, where data and model have the same names.

        A folder's classes are numbered in the order of their names, a model's in its own.
        """
        named, classes = self._model.class_names, self._classes
        same = named is not None and classes is not None and set(named) == set(classes)
        return classes[int(label)] if same and classes is not None else label

    def shaped(self) -> Batch:
        """One input of the size that latency is measured at: the first sample, its values cycled."""
        shaped = {}
        for spec in self._model.inputs:
            array = self._first[spec.name]
            for axis, size in enumerate(spec.shape):
                have: int = array.shape[axis]
                want = size if isinstance(size, int) else self._dims.get(size, have)
                array = array.take(np.arange(want) % have, axis=axis)
            shaped[spec.name] = np.ascontiguousarray(array)
        return shaped

    def first(self, count: int) -> list[Batch]:
        """The first evaluation batches, for probes."""
        return [self.batch(sample) for sample, _ in zip(self._evaluation, range(count), strict=False)]

    def together(self, batches: Sequence[Batch]) -> Batch:
        """Several inputs as one, all padded to the longest, as the tokenizer would."""
        pad = getattr(self._model.processor, "pad_id", 0)
        whole = {}
        for name in batches[0]:
            arrays = [batch[name] for batch in batches]
            largest = np.max([array.shape[1:] for array in arrays], axis=0)
            filler = pad if name == "input_ids" else 0
            rows = sum(map(len, arrays))
            filled = np.full((rows, *largest), filler, arrays[0].dtype)
            first = 0
            for array in arrays:
                corner = (slice(first, first + len(array)), *map(slice, array.shape[1:]))
                filled[corner] = array
                first += len(array)
            whole[name] = filled
        return whole

    def outputs(
        self, runner: Runs, tick: Any = lambda: None, every: int = 1
    ) -> tuple[dict[str, Any], list[Any]]:
        """The model's outputs over every `every`-th evaluation sample, by name, and the samples' labels.

        Outputs of one shape are stacked, (samples, ...), with an axis of two for pairs; others are
        a list.
        """
        found: dict[str, list[np.ndarray]] = {}
        labels = []
        for sample in islice(self._evaluation, 0, None, every):
            for name, array in runner.run(self.batch(sample)).items():
                found.setdefault(name, []).append(array if self._pairs or not array.ndim else array[0])
            labels.append(sample.label)
            tick()
        stacked = {
            name: np.stack(rows) if len({row.shape for row in rows}) == 1 else rows
            for name, rows in found.items()
        }
        return stacked, labels

    def evaluation(self, outputs: dict[str, Any], reference: dict[str, Any], labels: list[Any]) -> Evaluation:
        """What a metric judges."""
        return Evaluation(
            outputs=outputs,
            reference=reference,
            labels=np.array([self._own(label) for label in labels]) if self.labelled else None,
            task=self._model.task,
            pairs=self._pairs,
            classes=self.class_names,
        )

    def judged(
        self, metric: Metric, outputs: dict[str, Any], reference: dict[str, Any], labels: list[Any]
    ) -> Quality:
        """What a metric says of outputs, as they are kept."""
        score = metric.score(self.evaluation(outputs, reference, labels))
        return Quality(
            metric=metric.name,
            higher_is_better=metric.higher_is_better,
            value=round(float(score.value), 6),
            details={name: round(float(value), 6) for name, value in score.details.items()},
            samples=len(labels),
        )


def _number(label: Label) -> float:
    try:
        return float(label)
    except ValueError:
        raise InputError(
            f"The label '{label}' is a name, and the model does not know its classes by names.",
            "Give their numbers, from 0.",
        ) from None
