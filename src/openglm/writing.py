"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openglm.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end, and is gone where that is not
    reached; raises `OutputError` where it cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}).", "Give a path you may write to."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()
