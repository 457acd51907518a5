"""Whether a .tflite file, which has no record of its outputs, is fit to be run at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openglm.dynamic.model_file import RUNTIME
from openglm.errors import InputError, VerificationError
from openglm.model.sources import tflite_file
from openglm.model.tflite.reading import read
from openglm.runtimes import batches
from openglm.runtimes.engine import engine
from openglm.search.feed import Feed, sizes
from openglm.targets import apart
from openglm.targets.proof import prove

SAMPLES = 4
_TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output, that another order of sums explains."""


class Checked(NamedTuple):
    """A file that passed."""

    samples: int
    outputs: int
    difference: float
    """Between one thread and two, as a share of the largest output."""
    load_ms: float
    peak_memory_mb: float | None


def verify(path: Path, *, seconds: float = 300.0) -> Checked:
    """Check a .tflite file: it is whole, loads in LiteRT, runs on random inputs in processes of their own,
    gives finite outputs, the same twice (where it keeps no state), and the same with one thread and with two.

    Raises `InputError` for a file that is no whole .tflite file, `VerificationError` for another that does
    not pass.
    """
    model = tflite_file.load(str(path))
    engine(RUNTIME)  # so that a missing engine is no fault of the file
    feed = Feed(model, None, sizes(model, None), calibration_samples=SAMPLES, evaluation_samples=SAMPLES)
    rows = feed.first(SAMPLES)
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder:
        work = Path(folder)
        batches.save([*rows, *rows], work / "inputs.npz")

        def answers(threads: int) -> apart.Answers:
            return apart.answers(
                RUNTIME, path.resolve(), work / "inputs.npz", work, threads=threads, seconds=seconds
            )

        try:
            one, two = answers(1), answers(2)
        except InputError as error:
            raise VerificationError(f"{path} does not run: {error.problem}", error.advice) from error
    again = "Convert the model again, or report it to whom it is from."
    for row in one.outputs:
        for name, array in row.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise VerificationError(f"The output '{name}' of {path} is not finite everywhere.", again)
    once, twice = one.outputs[: len(rows)], one.outputs[len(rows) :]
    if not read(path).stateful and prove(twice, once).difference:
        raise VerificationError(f"{path} gives other outputs for the same inputs.", again)
    difference = prove(two.outputs, one.outputs).difference
    if not difference <= _TOLERANCE:
        raise VerificationError(f"{path} gives other outputs with two threads than with one.", again)
    return Checked(len(rows), len(model.outputs), difference, one.took.load_ms, one.took.peak_mb)
