"""Functions of the user's own, named as `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from openglm.errors import InputError, nearest


@contextmanager
def importing(name: str) -> Iterator[ModuleType]:
    """The module of a name, found in the current folder or installed; the folder is searched while open.

    Raises whatever importing it raises.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        # A file written since Python last looked into the folder is otherwise not seen.
        importlib.invalidate_caches()
        yield importlib.import_module(name.partition(":")[0])
    finally:
        sys.path.remove(folder)


def function(module: ModuleType, name: str) -> Callable[..., Any]:
    """The function of a name in its module; raises `InputError` where there is none."""
    wanted = name.partition(":")[2]
    found = getattr(module, wanted, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(
            f"{module.__file__ or module.__name__} has no function '{wanted}'.",
            nearest(wanted, functions) if functions else "It defines none.",
        )
    return found  # type: ignore[no-any-return]


def advice() -> str:
    """What to do about a module that cannot be imported."""
    return f"Give module:function, with module.py in {Path.cwd()} or installed."
