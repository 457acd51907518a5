"""Adds engines to a bundle: every segment of its program is converted, the whole is compared with what the
bundle's own engine answers, and all that agree are measured in turn."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import FILE, Manifest, Program, Quality, Target
from openglm.bundle.store import check_target, list_files, opened, writing
from openglm.dynamic.program import ProgramFile
from openglm.errors import InputError, OpenGLMError, nearest
from openglm.export import apart
from openglm.export.proof import Proof, coarser, prove
from openglm.metrics import resolve
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context
from openglm.passes.dequantize import Dequantize
from openglm.passes.rewriting import attribute
from openglm.report.page import REPORT, render
from openglm.runtimes import measure
from openglm.runtimes.engine import Engine, Precision, Source, engine, engines
from openglm.runtimes.onnxruntime import NAME
from openglm.search.bundled import Bundled
from openglm.search.feed import Feed

ALL = "all"
SAMPLES = 32
TIMED = 8
"""Inputs of a round, those that all have the same cost for a whole model and different ones for a program."""
SECONDS = 300.0
"""For one conversion, and for one set of answers."""
_LARGE = 4096
"""Elements of a constant from which it tells the precision of a model."""


@dataclass(frozen=True)
class Outcome:
    """What became of one engine."""

    engine: str
    precision: Precision
    target: Target | None
    """Where it was added to the bundle."""
    reason: str = ""
    """Why it was not."""


def export(
    bundle: str | PathLike[str],
    runtimes: Sequence[str],
    *,
    precision: Precision | None = None,
    output: str | PathLike[str] | None = None,
    data: Any = None,
    samples: int = SAMPLES,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Convert a bundle's program for engines, by name, or "all" that are installed; the bundle gets their
    files, or a new one at `output` does.

    `precision` is what weights shall be held in, that of the bundle's own graphs if not given. Answers are
    compared on up to `samples` inputs of `data`, or of what stands in for it, and where `data` has labels
    the bundle's metric is taken too. An engine that fails, or whose answers differ by more than its
    precision explains, is left out, and says why; where none is added the bundle stays as it was. Raises
    `InputError` for an unknown engine or precision, `MissingExtraError` for an engine that is named and
    not installed, `OutputError` where the bundle cannot be written.
    """
    place = Path(bundle if output is None else output)
    wanted = _wanted(runtimes)
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"There is no precision '{precision}'.", nearest(precision, get_args(Precision)))
    check_target(place)
    with ExitStack() as stack:
        folder, manifest = stack.enter_context(opened(Path(bundle)))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openglm-")))
        export = _Export(
            folder, manifest, work, data, samples=samples, threads=threads, seconds=seconds, progress=progress
        )
        outcomes = [export.added(each, precision) for each in wanted]
        good = [item.target for item in outcomes if item.target is not None]
        if not good:
            return outcomes
        timed = export.timed(good, rounds)
        outcomes = [
            item if item.target is None else replace(item, target=timed[item.engine]) for item in outcomes
        ]
        progress("writing the bundle")
        with writing(place) as written:
            export.write(written, timed)
    return outcomes


def _wanted(runtimes: Sequence[str]) -> list[Engine]:
    if ALL in runtimes:
        found = [each for each in engines().values() if each.name != NAME and not each.lacking]
        if not found:
            raise InputError("No engine but ONNX Runtime is installed.", "See `openglm doctor`.")
        return found
    if NAME in runtimes:
        raise InputError("Every bundle has its model for ONNX Runtime.", "Name another engine.")
    return [engine(name) for name in dict.fromkeys(runtimes)]


class _Export:
    """One bundle, its answers, and the folder where engines' files come together."""

    def __init__(
        self, folder: Path, manifest: Manifest, work: Path, data: Any, *, samples: int, threads: int,
        seconds: float, progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.folder, self.manifest, self.work = folder, manifest, work
        self.threads, self.seconds, self.progress = threads, seconds, progress
        reader = Bundled.of(folder, manifest)
        self.feed = Feed(reader, data, manifest.shape, calibration_samples=1, evaluation_samples=samples)
        self.labelled = data is not None and self.feed.labelled
        self.batches = self.feed.first(samples)
        self.inputs = work / "inputs.npz"
        apart.save(self.batches, self.inputs)
        self.models: dict[str, dict[str, str]] = {}
        """Of each engine that was added, its file by segment."""
        self.precision: Precision = "fp32"
        """Of the bundle's own graphs."""
        self.sources = {segment.name: self._source(segment.name) for segment in manifest.program.segments}
        progress("running the bundle itself")
        self.reference, *_ = self._answers(NAME, self._program(NAME, {}, self.folder))

    def added(self, target: Engine, precision: Precision | None) -> Outcome:
        """Convert for one engine, and compare."""
        chosen = precision or self.precision
        try:
            if lacking := [name for name in target.lacking if name != target.package]:
                raise InputError(
                    f"Converting needs {', '.join(lacking)}.", f"Install it with: {target.install}."
                )
            if chosen not in target.precisions:
                raise InputError(f"{target.title} has no {chosen}.", "Try another precision.")
            return Outcome(target.name, chosen, self._proven(target, chosen))
        except OpenGLMError as error:
            self.models.pop(target.name, None)
            return Outcome(target.name, chosen, None, error.problem)

    def _proven(self, target: Engine, precision: Precision) -> Target:
        names = {}
        for segment, source in self.sources.items():
            self.progress(f"{target.title}: converting {segment}")
            names[segment] = f"{segment}_{precision}{target.suffix}"
            apart.convert(
                target.name, source, self.work / names[segment], precision, self._scratch(), self.seconds
            )
        self.models[target.name] = names
        self.progress(f"{target.title}: comparing its answers")
        answers, load_ms, peak = self._answers(target.name, self._program(target.name, names, self.work))
        proof = prove(answers, self.reference)
        if not proof.within(coarser(precision, self.precision)):
            raise InputError(_apart(proof), "Try another precision.")
        return Target(
            engine=target.name,
            version=target.version or "",
            precision=precision,
            difference=float(f"{proof.difference:.3g}"),
            mean_difference=float(f"{proof.mean_difference:.3g}"),
            cosine=round(proof.cosine, 6),
            quality=self._quality(answers),
            samples=len(self.batches),
            size_bytes=sum(file.stat().st_size for file in self._files(target)),
            load_ms=load_ms,
            peak_memory_mb=peak,
            host=measure.host(f"{target.title} {target.version}", self.threads),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def timed(self, targets: Sequence[Target], rounds: int) -> dict[str, Target]:
        """The engines that agree, and the bundle's own, run in turn; as they are where that fails."""
        self.progress("measuring all in turn")
        batches = self.batches[:TIMED] if self.manifest.program.gates else [self.feed.shaped()]
        inputs = self.work / "timed.npz"
        apart.save(batches, inputs)
        programs = {NAME: (NAME, self._program(NAME, {}, self.folder))}
        for target in targets:
            place = self._program(target.engine, self.models[target.engine], self.work)
            programs[target.engine] = (target.engine, place)
        try:
            times = apart.times(
                programs, inputs, self._scratch(), threads=self.threads, rounds=rounds, seconds=self.seconds
            )
        except InputError:  # two engines may not bear each other in one process; answers were proven apart
            return {target.engine: target for target in targets}
        return {
            target.engine: target.model_copy(
                update={
                    "timing": measure.summary(times[target.engine]),
                    "speedup": round(measure.speedup(times[NAME], times[target.engine]), 4),
                }
            )
            for target in targets
        }

    def write(self, place: Path, targets: Mapping[str, Target]) -> None:
        """The bundle with the engines that were added."""
        program = self.manifest.program
        replaced = {
            file.name
            for segment in program.segments
            for name in targets
            if name in segment.models
            for file in engines()[name].files(Path(segment.models[name]))
        }
        for name in set(self.manifest.files) - replaced:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, place / name)
        for name in targets:
            program = _with(program, name, self.models[name])
            for file in self._files(engines()[name]):
                shutil.copyfile(file, place / file.name)
        before = [item for item in self.manifest.targets if item.engine not in targets]
        changed = self.manifest.model_copy(
            update={"program": program, "targets": (*before, *targets.values())}
        )
        if REPORT in self.manifest.files:
            (place / REPORT).write_text(render(changed), encoding="utf-8")
        changed = changed.model_copy(update={"files": list_files(place)})
        (place / FILE).write_text(changed.model_dump_json(indent=2), encoding="utf-8")

    def _source(self, segment: str) -> Source:
        """A segment's graph as the engines get it."""
        (found,) = (each for each in self.manifest.program.segments if each.name == segment)
        path = self.folder / found.models[NAME]
        graph = onnx_file.read(path)
        self.precision = coarser(self.precision, precision_of(graph))
        plain = self.work / f"{segment}.plain.onnx"
        onnx_file.write(Dequantize().apply(graph, Context()).graph, plain)
        return Source(
            path,
            plain,
            frozenset(node.op_type for node in graph.graph.all_nodes()),
            tuple(str(value.name) for value in graph.graph.outputs),
        )

    def _program(self, runtime: str, models: Mapping[str, str], folder: Path) -> Path:
        """A file of the program with one engine's models, which lie in `folder`."""
        names = models or {segment.name: segment.models[NAME] for segment in self.manifest.program.segments}
        absolute = {segment: str((folder / name).resolve()) for segment, name in names.items()}
        path = self.work / f"{runtime}.json"
        program = _with(self.manifest.program, runtime, absolute)
        content = ProgramFile(program=program, outputs=self.manifest.outputs)
        path.write_text(content.model_dump_json(), encoding="utf-8")
        return path

    def _answers(
        self, runtime: str, program: Path
    ) -> tuple[list[dict[str, np.ndarray]], float, float | None]:
        return apart.answers(
            runtime, program, self.inputs, self._scratch(), threads=self.threads, seconds=self.seconds
        )

    def _quality(self, answers: Sequence[Mapping[str, np.ndarray]]) -> Quality | None:
        if not self.labelled:
            return None
        outputs, labels = self.feed.outputs(_Told(answers))
        metric = resolve(self.manifest.after.quality.metric)
        score = metric.score(self.feed.evaluation(outputs, outputs, labels))
        return Quality(
            metric=metric.name,
            value=score.value,
            higher_is_better=metric.higher_is_better,
            details=score.details,
            samples=len(labels),
        )

    def _scratch(self) -> Path:
        path = self.work / "job"
        path.mkdir(exist_ok=True)
        return path

    def _files(self, target: Engine) -> list[Path]:
        names = self.models.get(target.name, {}).values()
        return [file for name in names for file in target.files(self.work / name)]


class _Told:
    """Gives answers that are there already, in their order."""

    def __init__(self, answers: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.inputs: list[str] = []
        self._answers = iter(answers)

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(next(self._answers))


def precision_of(graph: ir.Model) -> Precision:
    """What the weights of a graph are held in: the coarsest of what any large constant is."""
    found: Precision = "fp32"
    for value in graph.graph.initializers.values():
        held = value.const_value
        if held is not None and held.size >= _LARGE:
            found = coarser(found, _HELD.get(held.dtype, "fp32"))
    if any(
        node.op_type == "MatMulNBits" and attribute(node, "bits", 4) == 4 for node in graph.graph.all_nodes()
    ):
        return "int4"
    return found


_HELD: dict[ir.DataType, Precision] = {
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
}


def _with(program: Program, runtime: str, models: Mapping[str, str]) -> Program:
    """The program with files for an engine, by segment."""
    segments = [
        segment.model_copy(update={"models": {**segment.models, runtime: models[segment.name]}})
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
