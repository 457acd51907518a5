"""What every trial is measured against: the original model, loaded and judged, and the data for both."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from openglm.bundle.manifest import Quality
from openglm.data import open_data
from openglm.data.dataset import Dataset
from openglm.device.budget import Budget
from openglm.device.fit import Verdict, fit
from openglm.device.profile import Device
from openglm.errors import InputError, OutputError
from openglm.hashing import sha256
from openglm.metrics import resolve
from openglm.metrics.metric import Metric
from openglm.model.auto import AutoModel
from openglm.model.extra_outputs import plain
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.model.tensor import TensorSpec, specs
from openglm.passes.contract import Context, ModulePass
from openglm.passes.recipe import digest
from openglm.runtimes.onnxruntime import Runner
from openglm.search.clock import Clock
from openglm.search.feed import Batch, Feed, sizes

KEPT_MODULES = 3
"""Adapted models that stay in memory, so that recipes that begin alike need not begin anew."""


@dataclass(frozen=True)
class Setup:
    """What is asked of a search: enough to make its bench, in this process or in another one."""

    model: Model | str
    device: Device
    budget: Budget
    data: Any
    """What calibrates and judges: a path, a `Dataset`, rows, or None."""
    training: Any
    """What is trained on; None: the calibrating half of `data`."""
    metric: str
    max_drop: float
    dims: Mapping[str, int] | None
    threads: int
    calibration_samples: int
    evaluation_samples: int

    def bench(self, folder: Path, *, verdict: Verdict | None = None, model: Model | None = None) -> Bench:
        """Load the model, run it over the samples that judge, and say how good it is.

        Work files go into `folder`. Raises `InputError` for input that cannot be used, `OutputError`
        where `folder` cannot be written.
        """
        metric = resolve(self.metric)
        model = model or AutoModel.from_pretrained(self.model)
        verdict = verdict or fit(model, self.device, self.budget, dims=sizes(model, self.dims))
        feed = Feed(
            model,
            self.data,
            verdict.dims,
            calibration_samples=self.calibration_samples,
            evaluation_samples=self.evaluation_samples,
        )
        if metric.needs_labels and not feed.labelled:
            raise InputError(
                f"The metric {metric.name} needs labels, and the data has none.", "Use fidelity."
            )
        original, graph = folder / "original.onnx", plain(model.graph)
        try:
            onnx_file.write(graph, original)
        except OSError as error:
            raise no_room(folder, error) from error
        runner = Runner(original, threads=self.threads)
        outputs, labels = feed.outputs(runner)
        bench = Bench(
            setup=self,
            model=model,
            feed=feed,
            outputs=specs(graph.graph.outputs),
            metric=metric,
            training=self._training(feed),
            verdict=verdict,
            folder=folder,
            original=original,
            runner=runner,
            reference=outputs,
            labels=labels,
            inputs=feed.shaped(),
        )
        bench.baseline = bench.quality(outputs)
        return bench

    def _training(self, feed: Feed) -> Dataset | None:
        if self.training is not None:
            return self.training if isinstance(self.training, Dataset) else open_data(self.training)
        return feed.calibrating if self.data is not None else None


@dataclass
class Bench:
    """The original, what it is fed, and what was found of it."""

    setup: Setup
    model: Model
    feed: Feed
    outputs: tuple[TensorSpec, ...]
    """The model's own."""
    metric: Metric
    training: Dataset | None
    """What training passes learn from; none where the user gave no data."""
    verdict: Verdict
    """The original's."""
    folder: Path
    """Where training keeps its state."""
    original: Path
    """Its graph as a file."""
    runner: Runner
    """It, loaded."""
    reference: dict[str, Any]
    """Its outputs over the samples that judge."""
    labels: list[Any]
    inputs: Batch
    """What latency is measured on."""
    baseline: Quality = field(default_factory=lambda: Quality(metric="", value=0.0, samples=0))
    alone: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Held while latency is measured, so that processes of one search do not measure at once."""
    _shared: dict[str, Any] = field(default_factory=dict)
    """What trainings keep for each other."""
    _adapted: OrderedDict[str, tuple[Model, tuple[str, ...]]] = field(default_factory=OrderedDict)

    @property
    def dims(self) -> Mapping[str, int]:
        """Sizes of the named dimensions that are measured and predicted with."""
        return self.verdict.dims

    @property
    def cuts(self) -> bool:
        """Whether structures are cut and trained: with data, and where the module has to be made of a file's
        graph first, with training data."""
        trainable = self.model.trainable
        given = self.setup.training if trainable is not None and trainable.converted else self.training
        return trainable is not None and given is not None

    def quality(self, outputs: Mapping[str, Any], every: int = 1) -> Quality:
        """A model's outputs over every `every`-th of the samples that judge, judged."""
        reference = {name: rows[::every] for name, rows in self.reference.items()}
        return self.feed.judged(self.metric, dict(outputs), reference, self.labels[::every])

    def drop(self, quality: Quality, baseline: Quality | None = None) -> float:
        """How much worse a quality is than the original's; below zero where it is better."""
        difference = (baseline or self.baseline).value - quality.value
        return difference if self.metric.higher_is_better else -difference

    def adapted(
        self,
        steps: tuple[ModulePass, ...],
        clock: Clock,
        tick: Callable[[str, float], None],
        *,
        gated: bool = False,
    ) -> tuple[Model, tuple[str, ...]]:
        """The model after passes on its module, and their remarks; `gated` where gates follow, for which
        some rows are left out of training.

        What training reached is kept in a folder by the steps that led to it, so that it goes on where
        it was stopped, and is not done twice.
        """
        if not steps:
            return self.model, ()
        training, apart = self.training, gated and self.setup.training is None
        if apart and training is not None:
            training, _ = training.halves()
        key = f"{digest(steps)}-apart" if apart else digest(steps)
        if key in self._adapted:
            self._adapted.move_to_end(key)
            return self._adapted[key]
        model, notes = self.adapted(steps[:-1], clock, tick, gated=gated)
        step = steps[-1]
        feed = self.feed.of(model)
        context = Context(
            calibration=feed.calibration,
            teacher=self.model,
            training=training,
            checkpoint=self.folder / "training" / key if step.needs_training else None,
            trained=lambda share, words: tick(f"{step.code}: {words}", share),
            shared=self._shared,
        )
        if step.needs_training and training is None:
            raise InputError(
                f"{step.scheme} trains, and there is nothing to train on.",
                "Give --data, or more of it with --train.",
            )
        tick(step.code, 0.0)
        with clock("training" if step.needs_training else "pruning"):
            result = step.apply(model, context)
        made = result.model, (*notes, *result.notes)
        self._adapted[key] = made
        while len(self._adapted) > KEPT_MODULES:
            self._adapted.popitem(last=False)
        return made

    def thresholds(self, *, trained: bool) -> Dataset:
        """What gates are set on: nothing of it was trained on, where the model was."""
        calibrating = self.feed.calibrating
        return calibrating.halves()[1] if trained and self.setup.training is None else calibrating

    def fingerprint(self) -> dict[str, str]:
        """What a study's trials depend on: with any of it changed they say nothing any more."""
        first = hashlib.sha256()
        for name, array in sorted(self.inputs.items()):
            first.update(name.encode() + np.ascontiguousarray(array).tobytes())
        first.update(repr(self.labels).encode())
        setup = self.setup
        return {
            "model": sha256(self.original),
            "data": f"{self.feed.description} {first.hexdigest()}",
            "training data": str(self.training.name if self.training is not None else None),
            "metric": self.metric.name,
            "device": setup.device.model_dump_json(),
            "threads": str(setup.threads),
            "samples": f"{setup.calibration_samples} {len(self.labels)}",
            "onnxruntime": version("onnxruntime"),
        }


def portable(setup: Setup) -> Setup:
    """A setup for another process; raises `InputError` where its model or data is an object of this one."""
    model, data, training = setup.model, setup.data, setup.training
    if isinstance(model, Model):
        raise InputError(
            "Several workers each load the model, and this one is an object of this process.",
            "Give its source (a name, folder, file, or your module:function), or search with one worker.",
        )
    for name, held in (("data", data), ("training data", training)):
        if isinstance(held, Dataset):
            raise InputError(
                f"Several workers each read the {name}, and this is an object of this process.",
                "Give a path or a list of rows, or search with one worker.",
            )
    return replace(setup, model=str(model))


def no_room(where: object, error: OSError) -> OutputError:
    """The error for work files that cannot be written."""
    return OutputError(
        f"Work files cannot be written to {where} ({error.strerror or error}).",
        "Free some space there, or give another --output (from Python: folder).",
    )
