"""Kinds that are found rather than listed: each a file of a package that defines a class with a name."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def registered(package: ModuleType, base: type[T], name: str) -> dict[str, type[T]]:
    """The classes derived from `base` that have the attribute `name`, by it, those of the package's files
    and those defined elsewhere."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return {getattr(kind, name): kind for kind in _derived(base) if hasattr(kind, name)}


def _derived(base: type[T]) -> Iterator[type[T]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _derived(kind)
