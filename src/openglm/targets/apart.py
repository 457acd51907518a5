"""Work with foreign engines in a process of its own, with a time limit: a crash takes nothing else down.

Run as `python -m openglm.targets.apart JOB.json`, it does the job that the file describes and writes what it
found beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.dynamic.footprint import Footprint, watched
from openglm.dynamic.program import PROGRAM_FILE, ProgramFile, ProgramRunner, files_of, open_file
from openglm.errors import InputError, OpenGLMError
from openglm.runtimes import batches as kept
from openglm.runtimes import measure
from openglm.runtimes.engine import Runs, Source, engine

FOUND = "found.json"
OUTPUTS = "outputs.npz"
TOLD = 300
"""Characters of an engine's own words that are passed on."""


class Answers(NamedTuple):
    """What a program made of inputs in an engine."""

    outputs: list[dict[str, np.ndarray]]
    ways: list[list[list[str]]]
    """For each input, the segments and gates that each of its rows went through."""
    took: Footprint
    operators: dict[str, list[str]]
    """What runs which operators, where the engine tells."""


def convert(
    runtime: str, source: Source, target: Path, precision: Precision, folder: Path, seconds: float
) -> None:
    """Have an engine convert a graph, and check what it wrote where it does not run here; raises `InputError`
    with the reason where it does not get there."""
    job = {
        "kind": "convert",
        "runtime": runtime,
        "graph": str(source.graph),
        "plain": str(source.plain),
        "sizes": {name: list(sizes) for name, sizes in source.sizes.items()},
        "target": str(target),
        "precision": precision,
        "calibration": None if source.calibration is None else str(source.calibration),
    }
    _run(job, folder, seconds)


def answers(
    runtime: str, program: Path, inputs: Path, folder: Path, *, threads: int, seconds: float
) -> Answers:
    """What a program, the file of it, answers in an engine to inputs as `batches.save` keeps them.

    Raises `InputError` with the reason where it does not get there.
    """
    job = {
        "kind": "answer",
        "runtime": runtime,
        "program": str(program),
        "inputs": str(inputs),
        "threads": threads,
    }
    found = _run(job, folder, seconds)
    took = Footprint(**found["took"])
    return Answers(kept.read(folder / OUTPUTS), found["ways"], took, found["operators"])


def times(
    programs: Mapping[str, tuple[str, Path]],
    inputs: Path,
    folder: Path,
    *,
    threads: int,
    rounds: int,
    seconds: float,
) -> dict[str, np.ndarray]:
    """Milliseconds of an input for each of several programs, given with their engines, run in turn in one
    process, (rounds,); raises `InputError` where that does not get to its end."""
    job = {
        "kind": "time",
        "programs": {name: [runtime, str(path)] for name, (runtime, path) in programs.items()},
        "inputs": str(inputs),
        "threads": threads,
        "rounds": rounds,
    }
    return {name: np.array(found) for name, found in _run(job, folder, seconds)["times"].items()}


def _run(job: Mapping[str, Any], folder: Path, seconds: float) -> dict[str, Any]:
    path, found = folder / "job.json", folder / FOUND
    path.write_text(json.dumps(job), encoding="utf-8")
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "openglm.targets.apart", str(path)]
    try:
        done = _done(command, seconds)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"It was not done after {seconds:.0f} seconds.", "Give more time with --time."
        ) from error
    if not found.is_file():
        raise InputError(_ended(done), "Try another engine or precision.")
    content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    if "problem" in content:
        raise InputError(content["problem"], content["advice"])
    return content


def _done(command: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command, which ends with all that it has started where it takes longer."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, errors="replace", start_new_session=True
    ) as child:
        try:
            out, err = child.communicate(timeout=seconds)
        except BaseException:  # an interrupt from the keyboard does not reach it either
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _ended(done: subprocess.CompletedProcess[str]) -> str:
    """How a process ended that gave no account of itself."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = f" ({lines[-1][:TOLD]})" if lines else ""
    if done.returncode < 0:
        return f"The engine crashed with {signal.Signals(-done.returncode).name}{said}."
    return f"The engine ended the process with exit code {done.returncode}{said}."


def _convert(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    calibration = None if job["calibration"] is None else Path(job["calibration"])
    source = Source(Path(job["graph"]), Path(job["plain"]), job["sizes"], calibration)
    target = engine(job["runtime"])
    target.convert(source, Path(job["target"]), job["precision"])
    if not target.runs:
        target.check(source, Path(job["target"]), job["precision"])
    return {}


def _answer(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    target = engine(job["runtime"])
    target.processors()  # so that the engine's own code is in the baseline
    batches = kept.read(Path(job["inputs"]))
    found, took = watched(
        lambda: open_file(Path(job["program"]), threads=job["threads"], runtime=job["runtime"]),
        lambda runner: [_traced(runner, batch) for batch in batches],
    )
    kept.save([outputs for outputs, _ in found], folder / OUTPUTS)
    operators: dict[str, set[str]] = {}
    for file in _models(Path(job["program"]), target.name):
        for place, names in target.placed(file).items():
            operators.setdefault(place, set()).update(names)
    return {
        "ways": [ways for _, ways in found],
        "took": took._asdict(),
        "operators": {place: sorted(names) for place, names in operators.items()},
    }


def _models(path: Path, runtime: str) -> list[Path]:
    """The engine's files of a program, or the model that `path` is itself."""
    if path.suffix != Path(PROGRAM_FILE).suffix:
        return [path]
    return list(files_of(ProgramFile.read(path).program, runtime, Path()).values())


def _traced(runner: Runs, batch: kept.Batch) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    """The outputs, and the way of each row where rows have one."""
    if not isinstance(runner, ProgramRunner) or not runner.gated:
        return runner.run(batch), []
    outputs, trace = runner.traced(batch)
    return outputs, [list(way.nodes) for way in trace.rows]


def _time(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    batches = kept.read(Path(job["inputs"]))
    calls = {
        name: measure.running(open_file(Path(path), threads=job["threads"], runtime=runtime), batches)
        for name, (runtime, path) in job["programs"].items()
    }
    found = measure.interleaved(calls, rounds=job["rounds"])
    return {"times": {name: list(array / len(batches)) for name, array in found.items()}}


def main(path: Path) -> None:
    """Do the job in this process."""
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        found = {"convert": _convert, "answer": _answer, "time": _time}[job["kind"]](job, path.parent)
    except OpenGLMError as error:
        found = {"problem": error.problem, "advice": error.advice}
    except Exception as error:  # the engines' own kinds share no base
        text = (str(error).strip() or "no reason given").splitlines()[0]
        found = {"problem": f"{type(error).__name__}: {text[:TOLD]}", "advice": "Try another engine."}
    (path.parent / FOUND).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
