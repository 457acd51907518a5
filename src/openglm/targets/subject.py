"""What engines are compared on: a program, its inputs, its own answers, and how others are judged by them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from openglm.bundle.manifest import Manifest, Precision, Program, Quality, Segment, Target
from openglm.dynamic.program import ProgramFile, ProgramRunner, files_of
from openglm.errors import InputError
from openglm.metrics import resolve
from openglm.model.extra_outputs import plain
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.dequantize import Dequantize
from openglm.runtimes import batches, measure
from openglm.runtimes.engine import Engine, Runs, Source, engine, name_of
from openglm.runtimes.onnxruntime import NAME
from openglm.search.bundled import Bundled
from openglm.search.feed import Feed, sizes
from openglm.targets import apart
from openglm.targets.proof import Proof, coarser, precision_of, prove

TIMED = 8
"""Inputs of a round where inputs take different ways; else one does."""
LEAST_ALIKE = 0.75
"""Of the inputs, how many must take the same way through a program's gates."""
LENGTHS = (16, 32, 64, 128, 256)
"""Tokens."""
Files = Mapping[str, Path]
"""An engine's file for each segment."""


class Subject:
    """A program with its own engine's files, and a work folder; engines run in processes of their own.

    `reads` is what it takes inputs for, `shape` the sizes of its named dimensions. Answers are compared on
    up to `samples` inputs of `data`, or of what stands in for it; `seconds` limits each process.
    """

    def __init__(
        self, reads: Model | Bundled, program: Program, files: Files, shape: Mapping[str, int], work: Path,
        data: Any = None, *, metric: str = "fidelity", samples: int, threads: int, seconds: float,
        progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.reads, self.program, self.own = reads, program, files
        self.work, self.threads, self.seconds = work, threads, seconds
        self.progress = progress
        self.shape = dict(shape)
        self.graphs = {segment: onnx_file.read(path) for segment, path in files.items()}
        self.precision: Precision = "fp32"
        """Of its own graphs, the coarsest."""
        for graph in self.graphs.values():
            self.precision = coarser(self.precision, precision_of(graph))
        self._metric = metric
        self._feed = Feed(reads, data, shape, calibration_samples=samples, evaluation_samples=samples)
        self._labelled = data is not None and self._feed.labelled
        self._batches = self._feed.first(samples)
        self._inputs = work / "inputs.npz"
        batches.save(self._batches, self._inputs)
        progress("running it in its own engine")
        self._reference = self._answers(NAME, self.own)

    @classmethod
    def of_bundle(cls, folder: Path, manifest: Manifest, work: Path, data: Any, **settings: Any) -> Subject:
        """That of a bundle's folder; `settings` as in the class."""
        reads, program = Bundled.of(folder, manifest), manifest.program
        metric = manifest.after.quality.metric
        files = files_of(program, NAME, folder)
        return cls(reads, program, files, manifest.shape, work, data, metric=metric, **settings)

    @classmethod
    def of_model(
        cls, model: Model, dims: Mapping[str, int] | None, work: Path, data: Any, **settings: Any
    ) -> Subject:
        """That of a model's graph; `settings` as in the class."""
        path = work / "model.onnx"
        onnx_file.write(plain(model.graph), path, mapped=True)
        program = Program(segments=(Segment(name="model", models={NAME: path.name}),))
        return cls(model, program, {"model": path}, sizes(model, dims), work, data, **settings)

    def converted(
        self, target: Engine, precision: Precision, sizes: Mapping[str, Sequence[int]] | None = None
    ) -> Files:
        """An engine's files of all segments; `sizes` as in `proposed`, in place of these. Raises `InputError`
        with the reason where it cannot make them."""
        if lacking := [name for name in target.lacking if name != target.package]:
            raise InputError(f"Converting needs {', '.join(lacking)}.", f"Install it with: {target.install}.")
        if precision not in target.precisions:
            raise InputError(f"{target.title} has no {precision}.", "Try another precision.")
        files = {}
        every = {**proposed(self.reads, self.shape), **(sizes or {})}
        for segment, source in self._sources.items():
            self.progress(f"{target.title}: converting {segment}")
            files[segment] = self.work / f"{segment}_{precision}{target.suffix}"
            sized = replace(source, sizes=every)
            apart.convert(target.name, sized, files[segment], precision, self.scratch, self.seconds)
        return files

    @cached_property
    def _sources(self) -> dict[str, Source]:
        """The segments as engines get them."""
        found, ranges = {}, self._calibration()
        for segment, graph in self.graphs.items():
            plain = self.work / f"{segment}.plain.onnx"
            onnx_file.write(Dequantize().apply(graph, Context()).graph, plain)
            found[segment] = Source(self.own[segment], plain, calibration=ranges.get(segment))
        return found

    def _calibration(self) -> dict[str, Path]:
        """Files of what each segment takes, by its name, as inputs that judge nothing go through the
        bundle."""
        told: dict[str, list[batches.Batch]] = {segment: [] for segment in self.own}

        def load(segment: Segment) -> Runs:
            runner = engine(NAME).load(self.own[segment.name], threads=self.threads)
            return _Listening(runner, told[segment.name])

        program = ProgramRunner(self.program, self.reads.outputs, load)
        for batch in self._feed.calibration():
            program.run(batch)
        files = {
            segment: self.work / f"{segment}.calibration.npz" for segment, found in told.items() if found
        }
        for segment, path in files.items():
            batches.save(told[segment], path)
        return files

    def proven(self, target: Engine, precision: Precision, files: Files) -> Target:
        """What an engine's files are like; raises `InputError` where it does not run them, or its answers
        differ from the bundle's own by more than the precision explains."""
        self.progress(f"{target.title}: comparing its answers")
        answers = self._answers(target.label, files)
        # Where rounding moves a row over a gate's threshold, its answer is another exit's: no measure of the
        # engine. How often that happens is one of its own.
        pairs = zip(answers.ways, self._reference.ways, strict=True)
        alike = [place for place, (one, other) in enumerate(pairs) if one == other]
        if len(alike) < LEAST_ALIKE * len(self._batches):
            raise InputError(
                f"Only {len(alike)} of {len(self._batches)} inputs take the same way through its gates.",
                "Try another precision.",
            )
        proof = prove(
            *([outputs[place] for place in alike] for outputs in (answers.outputs, self._reference.outputs))
        )
        if not proof.within(coarser(precision, self.precision)):
            raise InputError(_apart(proof), "Try another precision.")
        found = {
            "difference": float(f"{proof.difference:.3g}"),
            "mean_difference": float(f"{proof.mean_difference:.3g}"),
            "cosine": round(proof.cosine, 6),
            "quality": self._quality(answers.outputs) if self._labelled else None,
            "samples": len(self._batches),
            "same_way": round(len(alike) / len(self._batches), 4) if self.program.gates else None,
            "load_ms": answers.took.load_ms,
            "peak_memory_mb": answers.took.peak_mb,
            "operators": {place: tuple(names) for place, names in answers.operators.items()},
        }
        return self.described(target, precision, files).model_copy(update=found)

    def described(self, target: Engine, precision: Precision, files: Files) -> Target:
        """What is known of an engine's files without running them."""
        return Target(
            engine=target.label,
            version=target.version or "",
            precision=precision,
            samples=0,
            size_bytes=sum(each.stat().st_size for file in files.values() for each in target.files(file)),
            host=measure.host(f"{target.title} {target.version}", self.threads),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def timed(self, targets: Sequence[Target], files: Mapping[str, Files], rounds: int) -> list[Target]:
        """Engines and the bundle's own run in turn, those with their files by engine; as they are where the
        engines do not bear each other in one process."""
        self.progress("measuring all in turn")
        own = self._batches[:TIMED] if self.program.gates else [self._feed.shaped()]
        inputs = self.work / "timed.npz"
        batches.save(own, inputs)
        programs = {
            name: (name, self._program(name, held)) for name, held in {NAME: self.own, **files}.items()
        }
        try:
            times = apart.times(
                programs, inputs, self.scratch, threads=self.threads, rounds=rounds, seconds=self.seconds
            )
        except InputError:
            return list(targets)
        return [
            target.model_copy(
                update={
                    "timing": measure.summary(times[target.engine]),
                    "speedup": round(measure.speedup(times[NAME], times[target.engine]), 4),
                }
            )
            for target in targets
        ]

    @property
    def scratch(self) -> Path:
        """A folder for what processes are told and find."""
        path = self.work / "job"
        path.mkdir(exist_ok=True)
        return path

    def _answers(self, runtime: str, files: Files) -> apart.Answers:
        program = self._program(runtime, files)
        return apart.answers(
            runtime, program, self._inputs, self.scratch, threads=self.threads, seconds=self.seconds
        )

    def _program(self, runtime: str, files: Files) -> Path:
        """A file of the program with an engine's files in it."""
        name = name_of(runtime)
        program = with_files(
            self.program, name, {segment: str(file.resolve()) for segment, file in files.items()}
        )
        path = self.work / f"{name}.json"
        content = ProgramFile(program=program, outputs=self.reads.outputs)
        path.write_text(content.model_dump_json(), encoding="utf-8")
        return path

    def _quality(self, answers: Sequence[Mapping[str, np.ndarray]]) -> Quality:
        outputs, labels = self._feed.outputs(_Told(answers))
        reference, _ = self._feed.outputs(_Told(self._reference.outputs))
        metric = resolve(self._metric)
        return self._feed.judged(metric, outputs, reference, labels)


class _Listening:
    """Notes what a graph is given."""

    def __init__(self, runner: Runs, heard: list[batches.Batch]) -> None:
        self.inputs = runner.inputs
        self._runner, self._heard = runner, heard

    def run(self, arrays: batches.Batch) -> dict[str, np.ndarray]:
        self._heard.append(dict(arrays))
        return self._runner.run(arrays)


class _Told:
    """Gives answers that are there already, in their order."""

    def __init__(self, answers: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.inputs: list[str] = []
        self._answers = iter(answers)

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(next(self._answers))


def proposed(reads: Model | Bundled, shape: Mapping[str, int]) -> dict[str, list[int]]:
    """Sizes for engines that want them fixed: lengths of texts, doubling up to the longest that the model
    takes; of all else those of `shape`, that it is measured with."""
    longest = getattr(reads.processor, "max_length", None)
    found = {name: [size] for name, size in shape.items()}
    for spec in reads.inputs:
        for name in spec.shape[1:]:
            if isinstance(name, str) and spec.dtype.startswith("int") and name in found:
                most = int(longest or found[name][0])
                found[name] = [*(size for size in LENGTHS if size < most), most]
    return found


def with_files(program: Program, runtime: str, names: Mapping[str, str]) -> Program:
    """The program with files for an engine, by segment."""
    segments = [
        segment.model_copy(update={"models": {**segment.models, runtime: names[segment.name]}})
        for segment in program.segments
    ]
    return program.model_copy(update={"segments": tuple(segments)})


def _apart(proof: Proof) -> str:
    if not np.isfinite(proof.difference):
        return "Its outputs have other shapes, or are no numbers."
    return (
        f"Its answers are not the bundle's: they differ by up to {proof.difference:.2g} of the largest, with "
        f"a cosine of {proof.cosine:.4f}."
    )
