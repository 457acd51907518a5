"""Hashes of files: what a bundle, the zoo and the cache of exports know a file by."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same, computed once in a process while size, time and place of the file stay as they are."""
    state = path.stat()
    return _remembered(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _remembered(path: Path, *state: int) -> str:
    return sha256(path)
