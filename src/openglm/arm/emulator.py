"""An emulated ARM processor that runs graphs in ONNX Runtime, and counts what that takes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from openglm.arm.cpus import Cpu
from openglm.arm.install import INSIDE, needed
from openglm.dynamic.program import ProgramFile, ProgramRunner, files_of
from openglm.errors import InputError, OpenGLMError
from openglm.runtimes.onnxruntime import NAME

WARM, TIMES = 1, 3
"""Inferences before those that are counted, and how many are where no other number is asked for."""


class EmulationError(OpenGLMError):
    """The emulated process ended by itself. Exit code 4."""

    exit_code = 4


@dataclass(frozen=True)
class Counts:
    """The instructions that a stretch took."""

    instructions: int
    floats: int
    """Of these vector multiplications of floating-point numbers: FMLA, FMUL."""
    integers: int
    """Of integers, lane by lane: SMLAL, UMULL, MLA and others."""
    dots: int
    """Dot products of four int8 each: SDOT, UDOT, USDOT."""
    matrices: int
    """Products of 2 by 8 int8 matrices: SMMLA, UMMLA, USMMLA."""

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Counts(*(one + more for one, more in pairs))


NONE = Counts(0, 0, 0, 0, 0)


class Emulator:
    """ARM's ONNX Runtime on one thread of an emulated processor; a context manager.

    With `counted`, every graph runs `WARM` and then so many times, and the median of what it takes is
    added to `spent`. Raises `InputError` where ARM emulation is not set up, or cannot count.
    """

    def __init__(self, cpu: Cpu, *, counted: int = 0) -> None:
        emulation = needed()
        if counted and emulation.uncounted:
            raise InputError(
                f"Instructions cannot be counted here: {emulation.uncounted}.",
                "See to that, and set ARM emulation up again.",
            )
        self.cpu = cpu
        self.spent = NONE
        self._emulation = emulation
        self._counted = counted
        self._loaded = 0

    def __enter__(self) -> Emulator:
        self._folder = tempfile.TemporaryDirectory(prefix="openglm-")
        self.work = Path(self._folder.name)
        counts = self.work / "counts" if self._counted else None
        self._complaints = (self.work / "stderr").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            self._emulation.command(self.cpu, counts, str(INSIDE)),
            env=self._emulation.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
        )
        try:
            self._marks: IO[str] | None = None
            self._answer()
            if counts:
                self._marks = counts.open(encoding="utf-8")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.kill()
        with suppress(OSError):  # what was not yet written to it
            self._process.communicate()
        if self._marks:
            self._marks.close()
        self._complaints.close()
        self._folder.cleanup()

    def load(self, path: Path) -> Emulated:
        """A graph, loaded there; raises `InputError` where the engine does not take it."""
        said = self._ask({"load": str(path.resolve())}, f"ONNX Runtime on ARM cannot load {path.name}")
        self._loaded += 1
        return Emulated(self, self._loaded - 1, said["inputs"], said["outputs"])

    def open(self, path: Path) -> Emulated | ProgramRunner:
        """A model's file, or a program's with its segments; its gates are the host's."""
        if path.suffix != ".json":
            return self.load(path)
        content = ProgramFile.read(path)
        files = files_of(content.program, NAME, path.parent)
        return ProgramRunner(content.program, content.outputs, lambda segment: self.load(files[segment.name]))

    def run(self, graph: Emulated, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a graph gives; raises `InputError` for inputs it cannot run on."""
        given, results = (self.work / f"{name}.npz" for name in ("arrays", "results"))
        np.savez(given, *arrays.values())
        warm, times = (WARM, self._counted) if self._counted else (0, 1)
        self._ask(
            {
                "run": graph.index,
                "names": list(arrays),
                "arrays": str(given),
                "results": str(results),
                "warm": warm,
                "times": times,
            },
            "The model cannot run on these inputs on ARM",
        )
        if self._marks:
            self.spent += self._median()
        with np.load(results, allow_pickle=False) as file:
            return {name: file[f"arr_{index}"] for index, name in enumerate(graph.outputs)}

    def _ask(self, request: Mapping[str, Any], trouble: str) -> dict[str, Any]:
        """The answer to a request; raises `InputError` that begins with `trouble` where there is none."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: the answer says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            reason = answer["error"].splitlines()[0].rsplit(" : ", 1)[-1].removesuffix(".")[:300]
            raise InputError(f"{trouble}: {reason}.", "Check that it runs on this machine itself.")
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self._process.wait()
        self._complaints.seek(0)
        said = (self._complaints.read().strip().splitlines() or [f"exit code {code}"])[-1].removesuffix(".")
        raise EmulationError(
            f"ONNX Runtime ended on the emulated {self.cpu.name}: {said}.",
            f"Run again; if it stays so, remove {self._emulation.folder} and set it up again.",
        )

    def _median(self) -> Counts:
        """Of the stretches between the marks that came since the last call."""
        assert self._marks is not None
        marks = np.array([line.split() for line in self._marks], np.int64).reshape(-1, 2, len(vars(NONE)))
        return Counts(*np.median(marks[:, 1] - marks[:, 0], axis=0).astype(int).tolist())


@dataclass(frozen=True)
class Emulated:
    """A graph loaded in an `Emulator`."""

    emulator: Emulator
    index: int
    inputs: list[str]
    outputs: list[str]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        return self.emulator.run(self, arrays)
