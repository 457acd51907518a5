"""Graphs that took long to make, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx_ir as ir

from openglm.errors import InputError, OutputError
from openglm.model.sources import onnx_file


def kept(key: str, make: Callable[[], ir.Model]) -> ir.Model:
    """The graph that `make` makes, read from the cache where it was made before from the same `key`, which
    tells of all that it is made from.

    `OPENGLM_CACHE` names another place for the cache. Raises `OutputError` where it cannot be kept.
    """
    from platformdirs import user_cache_path

    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    home = os.environ.get("OPENGLM_CACHE")
    path = (Path(home) if home else user_cache_path("openglm")) / "graphs" / f"{digest}.onnx"
    if path.is_file():
        try:
            return onnx_file.read(path)
        except InputError:
            pass  # broken: it is made again and replaced
    graph = make()
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx_file.write(graph, part)
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"The exported graph cannot be kept in {path.parent} ({error.strerror}).",
            "Free space there, or set OPENGLM_CACHE to another folder.",
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return onnx_file.read(path)
