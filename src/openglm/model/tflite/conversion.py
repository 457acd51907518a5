"""TensorFlow's converter, in a process of its own: it is slow to load, and a crash takes nothing else down.

Run as `python -m openglm.model.tflite.conversion JOB.json`, it does the job that the file describes and
writes what it found beside it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from openglm.errors import InputError, MissingExtraError, OpenGLMError

SAMPLES = 4
SECONDS = 1200.0
_SEED = 20
_FOUND, _ANSWERS = "found.json", "answers.npz"
_DEFAULT = "serving_default"
_OUTSIDE = re.compile("ReadFile|WriteFile|MatchingFiles|.*PyFunc.*|ShellExecute")
"""Operators that reach out of a model."""


@dataclass(frozen=True)
class Converted:
    """What TensorFlow itself answers, to compare with."""

    inputs: list[dict[str, np.ndarray]]
    """Random ones, by name, with one row each."""
    answers: list[dict[str, np.ndarray]]


def convert(
    saved_model: Path, targets: Mapping[str, Path], folder: Path, *, seconds: float = SECONDS
) -> Converted:
    """Convert a SavedModel folder to .tflite files, by precision: "fp32", "fp16" or "int8", the last with
    weights in int8 and activations quantized as they come (dynamic range).

    `folder` is to work in. Raises `InputError` with the reason where it does not get there,
    `MissingExtraError` where TensorFlow is not installed.
    """
    if find_spec("tensorflow") is None:
        raise MissingExtraError("TensorFlow, which reads SavedModels,", "tensorflow")
    job = {
        "saved_model": str(saved_model.resolve()),
        "targets": {precision: str(path.resolve()) for precision, path in targets.items()},
    }
    path, found = folder / "job.json", folder / _FOUND
    path.write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "openglm.model.tflite.conversion", str(path)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False,
            timeout=seconds, env={**os.environ, **quiet},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"TensorFlow was not done after {seconds:.0f} seconds.", "Give more time."
        ) from error
    if not found.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = lines[-1][:300] if lines else "silently"
        raise InputError(
            f"TensorFlow ended with exit code {done.returncode} ({said}).",
            "Check that the SavedModel is whole, and that there is memory enough.",
        )
    content = json.loads(found.read_text(encoding="utf-8"))
    if "problem" in content:
        raise InputError(content["problem"], content["advice"])
    pairs = [_split(rows) for rows in _rows(folder / _ANSWERS)]
    return Converted([inputs for inputs, _ in pairs], [answers for _, answers in pairs])


def _rows(path: Path) -> list[dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    found: list[dict[str, np.ndarray]] = [{} for _ in range(SAMPLES)]
    for key, array in arrays.items():
        number, _, name = key.partition("/")
        found[int(number)][name] = array
    return found


def _split(row: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    inputs, answers = (
        {name.removeprefix(start): array for name, array in row.items() if name.startswith(start)}
        for start in ("in/", "out/")
    )
    return inputs, answers


def _convert(job: Mapping[str, Any], folder: Path) -> None:
    import tensorflow as tf

    from openglm.data.text import noise
    from openglm.model.tflite.reading import read

    key = _signature(Path(job["saved_model"]))
    for precision, target in job["targets"].items():
        converter = tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=[key])
        if precision != "fp32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "fp16":
            converter.target_spec.supported_types = [tf.float16]
        Path(target).write_bytes(converter.convert())
    inputs = read(Path(next(iter(job["targets"].values())))).inputs
    loaded = tf.saved_model.load(job["saved_model"])
    run = loaded.signatures[key]
    arrays: dict[str, np.ndarray] = {}
    for number, sample in enumerate(noise(inputs, SAMPLES, _SEED)):
        given = {spec.name: _row(sample.inputs[spec.name], spec.shape) for spec in inputs}
        answers = run(**{name: tf.constant(array) for name, array in given.items()})
        arrays |= {f"{number}/in/{name}": array for name, array in given.items()}
        arrays |= {f"{number}/out/{name}": array.numpy() for name, array in answers.items()}
    np.savez(folder / _ANSWERS, **arrays)  # type: ignore[arg-type]


def _row(array: np.ndarray, shape: tuple[int | str, ...]) -> np.ndarray:
    if not shape:
        return array
    return np.repeat(array[None], shape[0] if isinstance(shape[0], int) else 1, axis=0)


def _signature(saved_model: Path) -> str:
    """The signature to run; raises `InputError` for a file that is none, or that reaches out of the model."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    content = SavedModel()
    try:
        content.ParseFromString((saved_model / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise InputError(f"{saved_model} is not a whole SavedModel.", "Export or copy it again.") from error
    graphs = [each for each in content.meta_graphs if "serve" in each.meta_info_def.tags]
    if not graphs:
        raise InputError(f"{saved_model} has no graph to serve.", "Export it with model.export(folder).")
    kinds = {node.op for node in graphs[0].graph_def.node} | {
        node.op for function in graphs[0].graph_def.library.function for node in function.node_def
    }
    if outside := sorted(filter(_OUTSIDE.fullmatch, kinds)):
        raise InputError(
            f"{saved_model} has the operator {outside[0]}, which reaches out of a model and is never run.",
            "Export the network alone.",
        )
    keys = sorted(key for key in graphs[0].signature_def if not key.startswith("__"))
    if _DEFAULT not in keys and len(keys) != 1:
        named = f"several: {', '.join(keys)}" if keys else "none"
        raise InputError(
            f"{saved_model} has no signature '{_DEFAULT}', but {named}.",
            "Save it with that signature: tf.saved_model.save(model, folder, signatures=function).",
        )
    return _DEFAULT if _DEFAULT in keys else keys[0]


def _reason(error: Exception) -> str:
    """What TensorFlow's pages of words come to."""
    text = str(error)
    missing = set(re.findall(r"failed to legalize operation 'tf\.(\w+)'", text))
    missing |= set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text))
    if missing:
        return f"TensorFlow Lite has no operator for {', '.join(sorted(missing))}"
    return (text.strip() or type(error).__name__).splitlines()[0].removesuffix(".")[:300]


def main(path: Path) -> None:
    """Do the job in this process."""
    job = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    try:
        _convert(job, path.parent)
    except OpenGLMError as error:
        found = {"problem": error.problem, "advice": error.advice}
    except Exception as error:  # TensorFlow's kinds share no base
        problem = f"TensorFlow cannot convert {job['saved_model']}: {_reason(error)}."
        found = {"problem": problem, "advice": "Export the model again, with fixed sizes where it has loops."}
    (path.parent / _FOUND).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
