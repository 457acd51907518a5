"""A session of a model's own file, with no bundle around it."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType

import numpy as np

from openglm.dynamic import session
from openglm.dynamic.memory_limit import MemoryLimit
from openglm.dynamic.session import Session
from openglm.errors import InputError
from openglm.model.sources import tflite_file
from openglm.model.tensor import check_inputs
from openglm.runtimes.engine import Runs, engine
from openglm.runtimes.onnxruntime import NAME

RUNTIME = "litert"


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    runtime: str = NAME,
    memory_mb: float | None = None,
    arena: bool = True,
) -> Session | FileSession:
    """Load a bundle, as `session.load` does, or a .tflite file, which runs in LiteRT whatever `runtime` and
    `arena` are.

    Raises `InputError` for a file that is broken or that LiteRT does not take, `MissingExtraError` where
    LiteRT is not installed.
    """
    if tflite_file.matches(str(path)):
        return FileSession(Path(path), threads=threads, memory_mb=memory_mb)
    return session.load(path, threads=threads, runtime=runtime, memory_mb=memory_mb, arena=arena)


class FileSession:
    """A loaded .tflite file. It takes and gives arrays in the file's own types: where it is quantized to its
    ends, the integers themselves."""

    def __init__(self, path: Path, *, threads: int | None = None, memory_mb: float | None = None) -> None:
        from openglm.model.tflite.reading import read

        self._limit = MemoryLimit(memory_mb)
        file = read(path)
        self.inputs, self.outputs = file.inputs, file.outputs
        """What it takes and gives, in order."""
        self.scales = file.scales
        """Of quantized inputs and outputs by name: the scale and the zero point, with which an integer stands
        for (integer - zero point) * scale."""
        self._runner: Runs | None = engine(RUNTIME).load(path, threads=threads)
        self._limit.check()

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs that do not fit."""
        if self._runner is None:
            raise InputError("The session is closed.", "Load the file again.")
        found = self._runner.run(check_inputs(self.inputs, arrays))
        self._limit.check()
        return found

    def close(self) -> None:
        """Free the model; a closed session runs no more."""
        self._runner = None

    def __enter__(self) -> FileSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
