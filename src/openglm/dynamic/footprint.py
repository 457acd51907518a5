"""Peak memory and load time of a model or program, measured in a process of its own.

Run as `python -m openglm.dynamic.footprint MODEL INPUTS.npz THREADS`, it prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

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


def main(model: str, inputs: str, threads: str) -> None:
    """Measure in this process and print the result."""
    import onnxruntime  # noqa: F401  # so that its code is in the baseline

    from openglm.dynamic.program import open_file

    with np.load(inputs, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    before = resident_mb(peak=False)
    start = time.perf_counter()
    runner = open_file(Path(model), threads=int(threads))
    load_ms = (time.perf_counter() - start) * 1e3
    for _ in range(RUNS):
        runner.run(arrays)
    after = resident_mb(peak=True)
    peak = None if before is None or after is None else round(after - before, 2)
    print(json.dumps(Footprint(round(load_ms, 2), peak)._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
