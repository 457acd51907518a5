"""Adds engines to a bundle: every segment of its program is converted, the whole is compared with what the
bundle's own engine answers, and all that agree are measured in turn."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from openglm.bundle.manifest import Manifest, Precision, Target
from openglm.bundle.store import check_target, opened, writing
from openglm.dynamic.program import files_of
from openglm.errors import InputError, OpenGLMError, nearest
from openglm.report.page import REPORT
from openglm.runtimes.engine import PROCESSOR, Engine, engine, engines, name_of
from openglm.runtimes.onnxruntime import NAME
from openglm.search.package import seal
from openglm.targets.subject import Files, Subject, with_files

ALL = "all"
SAMPLES = 32
SECONDS = 300.0
"""For one conversion, and for one set of answers."""


@dataclass(frozen=True)
class Outcome:
    """What became of one engine."""

    engine: str
    precision: Precision
    target: Target | None
    """What was measured of it, where its answers are the bundle's."""
    reason: str = ""
    """Why they are not."""


def export(
    bundle: str | PathLike[str],
    runtimes: Sequence[str],
    *,
    precision: Precision | None = None,
    output: str | PathLike[str] | None = None,
    sizes: Mapping[str, Sequence[int]] | None = None,
    data: Any = None,
    samples: int = SAMPLES,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Convert a bundle's program for engines, by name, or "all" that are installed; the bundle gets their
    files, or a new one at `output` does. The first outcome is the bundle's own engine's.

    `precision` is what weights shall be held in, that of the bundle's own graphs if not given. `sizes` are
    those of open dimensions, by name, that engines which want them fixed get graphs for. Answers are
    compared on up to `samples` inputs of `data`, or of what stands in for it, and where `data` has labels
    the bundle's metric is taken too. An engine that fails, or whose answers differ by more than its
    precision explains, is left out, and says why; where none is added the bundle stays as it was. Files of an
    engine that does not run on this machine are checked against the graphs instead. Raises `InputError` for
    an unknown engine or precision, `MissingExtraError` for an engine that is named and not installed,
    `OutputError` where the bundle cannot be written.
    """
    place = Path(bundle if output is None else output)
    asked = wanted(runtimes)
    check_precision(precision)
    check_target(place)
    with ExitStack() as stack:
        folder, manifest = stack.enter_context(opened(Path(bundle)))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openglm-")))
        subject = Subject.of_bundle(
            folder, manifest, work, data, samples=samples, threads=threads, seconds=seconds, progress=progress
        )
        files: dict[str, Files] = {NAME: subject.own}

        def made(target: Engine, chosen: Precision) -> Target:
            if target.name != NAME:
                files[target.name] = subject.converted(target, chosen, sizes)
            judge = subject.proven if target.runs else subject.described
            return judge(target, chosen, files[target.name])

        outcomes = [tried(engines()[NAME], subject.precision, made)]
        outcomes += [tried(each, precision or subject.precision, made) for each in asked]
        outcomes = measured(subject, outcomes, files, rounds)
        added = [item.target for item in outcomes[1:] if item.target is not None]
        if added:
            progress("writing the bundle")
            with writing(place) as written:
                _write(written, folder, manifest, added, files)
    return outcomes


def compare(
    bundle: str | PathLike[str],
    runtimes: Sequence[str],
    *,
    data: Any = None,
    samples: int = SAMPLES,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = SECONDS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Compare a bundle's engines, by name or "all" that it has and that run here, with its own, and measure
    them in turn. A name may choose a processor: "onnxruntime:xnnpack".

    Raises `InputError` for an engine that it has no model for, and as `export` does.
    """
    with ExitStack() as stack:
        folder, manifest = stack.enter_context(opened(Path(bundle)))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openglm-")))
        had = {target.engine: target for target in manifest.targets}
        here = [name for name in had if engines()[name].runs]
        names = here if ALL in runtimes else [name for name in dict.fromkeys(runtimes) if name != NAME]
        others = [engine(name) for name in names]
        files = {each.name: files_of(manifest.program, each.name, folder) for each in (engine(NAME), *others)}
        subject = Subject.of_bundle(
            folder, manifest, work, data, samples=samples, threads=threads, seconds=seconds, progress=progress
        )

        def there(target: Engine, chosen: Precision) -> Target:
            return subject.proven(target, chosen, files[target.name])

        outcomes = [tried(engines()[NAME], subject.precision, there)]
        for each in others:
            chosen = had[each.name].precision if each.name in had else subject.precision
            outcomes.append(tried(each, chosen, there))
        return measured(subject, outcomes, files, rounds)


def check_precision(precision: str | None) -> None:
    """Raise `InputError` for a precision that is none."""
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"There is no precision '{precision}'.", nearest(precision, get_args(Precision)))


def wanted(runtimes: Sequence[str], *, run: bool = False) -> list[Engine]:
    """Engines by their names, or "all" that are installed but the bundle's own; raises as `export` does.

    If they are to `run`, all are those that do so here, and a name may choose a processor.
    """
    if ALL in runtimes:
        others = [each for each in engines().values() if each.name != NAME and not each.lacking]
        found = [each for each in others if each.runs or not run]
        if not found:
            raise InputError("No engine but ONNX Runtime is installed.", "See `openglm doctor`.")
        return found
    chosen = next((name for name in runtimes if PROCESSOR in name), None)
    if chosen and not run:
        raise InputError(
            f"A model is converted for an engine, not for one of its processors ('{chosen}').",
            f"Name {name_of(chosen)}; `openglm compare` measures its processors.",
        )
    if NAME in runtimes:
        raise InputError("Every bundle has its model for ONNX Runtime.", "Name another engine.")
    return [engine(name) for name in dict.fromkeys(runtimes)]


def tried(target: Engine, precision: Precision, make: Callable[[Engine, Precision], Target]) -> Outcome:
    """What `make` gives for an engine, or why it does not."""
    try:
        return Outcome(target.label, precision, make(target, precision))
    except OpenGLMError as error:
        return Outcome(target.label, precision, None, error.problem)


def measured(
    subject: Subject, outcomes: Sequence[Outcome], files: Mapping[str, Files], rounds: int
) -> list[Outcome]:
    """The outcomes with latency, where there is one."""
    good = [item.target for item in outcomes if item.target is not None and item.target.ran]
    timed = subject.timed(good, {target.engine: files[name_of(target.engine)] for target in good}, rounds)
    by_engine = {target.engine: target for target in timed}
    return [replace(item, target=by_engine.get(item.engine, item.target)) for item in outcomes]


def _write(
    place: Path, folder: Path, manifest: Manifest, targets: Sequence[Target], files: Mapping[str, Files]
) -> None:
    """The bundle with engines added; what it had for the same engines goes."""
    program, names = manifest.program, [target.engine for target in targets]
    replaced = {
        file.relative_to(folder).as_posix()
        for segment in program.segments
        for name in names
        if name in segment.models
        for file in engines()[name].files(folder / segment.models[name])
    }
    for kept in set(manifest.files) - replaced:
        (place / kept).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / kept, place / kept)
    for name in names:
        program = with_files(program, name, {segment: file.name for segment, file in files[name].items()})
        for file in files[name].values():
            for each in engines()[name].files(file):
                copy = place / each.relative_to(file.parent)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(each, copy)
    before = [item for item in manifest.targets if item.engine not in names]
    changed = manifest.model_copy(update={"program": program, "targets": (*before, *targets)})
    seal(place, changed, report=REPORT in manifest.files)
