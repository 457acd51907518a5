"""Peak memory and load time of a model or program, measured in a process of its own.

Run as `python -m openglm.dynamic.footprint MODEL INPUTS.npz THREADS`, it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from openglm.runtimes.engine import Runs, engine
from openglm.runtimes.onnxruntime import NAME

T = TypeVar("T")
RUNS = 5


class Footprint(NamedTuple):
    """What loading a model and running it a few times took."""

    load_ms: float
    peak_mb: float | None
    """Megabytes (10^6 bytes) of resident memory added to a process with the engine imported; none
    where the system does not tell."""


def measure(model: Path, arrays: Mapping[str, np.ndarray], threads: int) -> Footprint | None:
    """Load and run a model, as `open_file` takes it, in a fresh process; none where that process fails."""
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **arrays)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "openglm.dynamic.footprint", str(model), str(inputs), str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return Footprint(**json.loads(done.stdout))


def resident_mb(peak: bool) -> float | None:
    """Megabytes of memory that this process has, or has had at most; none where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    key = "VmHWM:" if peak else "VmRSS:"
    line = next((line for line in status.splitlines() if line.startswith(key)), None)
    return None if line is None else int(line.split()[1]) * 1024 / 1e6


def watched(load: Callable[[], Runs], run: Callable[[Runs], T]) -> tuple[T, Footprint]:
    """Load a model and run it in this process, which ought to be a fresh one with the engine imported: what
    `run` gives, and what it took."""
    before = resident_mb(peak=False)
    start = time.perf_counter()
    runner = load()
    load_ms = (time.perf_counter() - start) * 1e3
    found = run(runner)
    after = resident_mb(peak=True)
    peak = None if before is None or after is None else round(after - before, 2)
    return found, Footprint(round(load_ms, 2), peak)


def main(model: str, inputs: str, threads: str) -> None:
    """Measure in this process and print the result."""
    from openglm.dynamic.program import open_file

    engine(NAME).processors()  # so that the engine's own code is in the baseline

    with np.load(inputs, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def run(runner: Runs) -> None:
        for _ in range(RUNS):
            runner.run(arrays)

    _, found = watched(lambda: open_file(Path(model), threads=int(threads)), run)
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
