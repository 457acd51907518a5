"""A TensorFlow SavedModel as a .tflite file, quantized where asked, and proven at once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openglm.bundle.manifest import Host, Precision, Timing
from openglm.dynamic.model_file import RUNTIME
from openglm.errors import InputError
from openglm.model.sources import saved_model, tflite_file
from openglm.model.tflite import conversion
from openglm.runtimes import batches, measure
from openglm.runtimes.engine import engine
from openglm.search.feed import Feed, sizes
from openglm.targets import apart
from openglm.targets.proof import Proof, coarser, prove
from openglm.writing import replacing

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


class Converted(NamedTuple):
    """A .tflite file that was proven."""

    path: Path
    precision: Precision
    size_bytes: int
    float_bytes: int
    """Of the same in float32."""
    conversion: Proof
    """How far the float32 file, in LiteRT, is from TensorFlow itself, on random inputs."""
    proof: Proof
    """How far the file is from the float32 one, both in LiteRT."""
    samples: int
    data: str
    """What they were compared on, in a sentence."""
    timing: Timing
    float_timing: Timing
    speedup: float
    """How many times faster than float32: the median over rounds of both in turn."""
    host: Host


def to_litert(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    precision: str = "fp32",
    data: Any = None,
    samples: int = 32,
    threads: int = 1,
    rounds: int = 15,
    seconds: float = conversion.SECONDS,
    progress: Callable[[str], None] = lambda text: None,
) -> Converted:
    """Convert a SavedModel folder to a .tflite file, and compare its answers.

    `precision` is "fp32", "fp16" or "int8": the last has weights in int8 and quantizes activations as they
    come, which TensorFlow calls dynamic range. The answers of the float32 file are compared with
    TensorFlow's, and those of the file asked for with the float32 file's, on up to `samples` inputs of `data`
    (as `openglm.optimize` takes it), or on random ones. Raises `InputError` where TensorFlow Lite does not
    take the model, or the answers differ by more than the precision explains; then nothing is written.
    """
    asked = next((each for each in PRECISIONS if each == precision), None)
    if asked is None:
        raise InputError(f"There is no precision '{precision}' here.", f"Take {', '.join(PRECISIONS)}.")
    if samples < 1 or threads < 1 or rounds < 1:
        raise InputError("Samples, threads and rounds are counted from 1 on.", "Give larger numbers.")
    folder, target = Path(source), Path(output)
    saved_model.check(folder)
    if target.suffix != tflite_file.SUFFIX:
        raise InputError(f"{target} is no name of a .tflite file.", "Give one that ends in .tflite.")
    own = engine(RUNTIME)
    with tempfile.TemporaryDirectory(prefix="openglm-") as name:
        work = Path(name)
        files: dict[str, Path] = {each: work / f"{each}.tflite" for each in dict.fromkeys(("fp32", asked))}
        progress("converting")
        truth = conversion.convert(folder, files, work, seconds=seconds)
        model = tflite_file.load(str(files["fp32"]))
        model.name = folder.resolve().name

        def answers(file: Path, given: Path) -> Sequence[Mapping[str, np.ndarray]]:
            return apart.answers(RUNTIME, file, given, work, threads=threads, seconds=seconds).outputs

        progress("comparing with TensorFlow")
        random = work / "random.npz"
        batches.save(truth.inputs, random)
        converted = _within(prove(answers(files["fp32"], random), truth.answers), "fp32", "TensorFlow's")
        progress("comparing with float32")
        feed = Feed(model, data, sizes(model, None), calibration_samples=samples, evaluation_samples=samples)
        inputs = work / "inputs.npz"
        found = feed.first(samples)
        batches.save(found, inputs)
        outputs = {each: answers(file, inputs) for each, file in files.items()}
        proof = _within(prove(outputs[asked], outputs["fp32"]), coarser(asked, "fp32"), "float32's")
        progress("measuring")
        one = work / "one.npz"
        batches.save(found[:1], one)
        programs = {each: (RUNTIME, file) for each, file in files.items()}
        times = apart.times(programs, one, work, threads=threads, rounds=rounds, seconds=seconds)
        with replacing(target) as part:
            shutil.copyfile(files[asked], part)
        return Converted(
            path=target,
            precision=asked,
            size_bytes=files[asked].stat().st_size,
            float_bytes=files["fp32"].stat().st_size,
            conversion=converted,
            proof=proof,
            samples=len(found),
            data="random noise" if data is None else str(data),
            timing=measure.summary(times[asked]),
            float_timing=measure.summary(times["fp32"]),
            speedup=measure.speedup(times["fp32"], times[asked]),
            host=measure.host(f"{own.title} {own.version}", threads),
        )


def _within(proof: Proof, precision: Precision, whose: str) -> Proof:
    if not proof.within(precision):
        raise InputError(
            f"The {precision} file's answers differ from {whose} by {proof.difference:.2g} of the largest, "
            f"cosine {proof.cosine:.4f}, more than the precision explains.",
            "Take another precision, or judge it by inputs of your own with --data.",
        )
    return proof
