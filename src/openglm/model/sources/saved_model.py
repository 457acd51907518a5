"""TensorFlow's SavedModel folders, by way of a .tflite file, whose graph has a counterpart in ONNX.

Loading one runs no Python code. Keras' own files (.keras, .h5) may hold some, and are refused.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from openglm.errors import InputError
from openglm.hashing import sha256_once
from openglm.model.model import Model
from openglm.model.sources.kept import kept
from openglm.model.tflite import conversion

FILE = "saved_model.pb"
REVISION = 1
"""Raised whenever the same folder would come to another graph."""
TOLERANCE = 5e-3
"""Largest difference between the graph's answers and TensorFlow's, as a share of the largest answer."""
_KERAS = (".keras", ".h5", ".hdf5")


def matches(source: str) -> bool:
    """Whether `source` is a SavedModel folder, or one of Keras' own files."""
    path = Path(source)
    return (path / FILE).is_file() or (path / f"{FILE}txt").is_file() or path.suffix.lower() in _KERAS


def load(source: str) -> Model:
    """The model of a SavedModel folder, its graph kept in the user's cache.

    Raises `InputError` for a folder that is not whole, that TensorFlow Lite has no operators for, or whose
    graph gives other answers than TensorFlow; `MissingExtraError` where TensorFlow is not installed.
    """
    from openglm.model.modules import trainable

    folder = Path(source)
    check(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = " ".join(f"{path.relative_to(folder)} {sha256_once(path)}" for path in files)
    name = folder.resolve().name
    graph = kept(f"SavedModel {REVISION} {_versions()} {hashes}", lambda: _converted(folder, name))
    return Model(name, source, "generic", export=lambda: graph, trainable=trainable(graph))


def check(folder: Path) -> None:
    """Raise `InputError` for what is no SavedModel folder."""
    export = "Export a SavedModel folder with model.export(folder) in Keras."
    if folder.suffix.lower() in _KERAS and not folder.is_dir():
        state = "is one of Keras' own files, which may hold code" if folder.is_file() else "is not there"
        raise InputError(f"{folder} {state}.", export)
    if not (folder / FILE).is_file():
        as_text = (folder / f"{FILE}txt").is_file()
        raise InputError(
            f"{folder} is a SavedModel written as text." if as_text else f"{folder} is no SavedModel folder.",
            export,
        )


def _converted(folder: Path, name: str) -> ir.Model:
    from openglm.model.tflite.reading import read
    from openglm.model.tflite.translation import DOMAIN, translate

    with tempfile.TemporaryDirectory(prefix="openglm-") as work:
        target = Path(work) / "model.tflite"
        truth = conversion.convert(folder, {"fp32": target}, Path(work))
        graph = translate(read(target), name)
    if all(node.domain != DOMAIN for node in graph.graph):
        _compare(graph, truth)
    return graph


def _compare(graph: ir.Model, truth: conversion.Converted) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    for inputs, answers in zip(truth.inputs, truth.answers, strict=True):
        for name, ours in zip(names, session.run(None, inputs), strict=True):
            theirs = answers[name]
            if theirs.dtype.kind != "f":  # the largest of two that are near may be either
                continue
            scale = float(np.abs(theirs).max(initial=1e-6))
            same = ours.shape == theirs.shape
            if not same or not np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
                raise InputError(
                    f"The graph's output '{name}' differs from TensorFlow's.",
                    "Report the model: it is converted wrongly.",
                )


def _versions() -> str:
    found = []
    for package in ("tensorflow", "tensorflow-cpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # a graph that was made elsewhere may still be in the cache
            continue
    return ", ".join(found)
