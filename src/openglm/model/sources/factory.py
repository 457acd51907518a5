"""`module:function`: a function of the user's own that makes the model, found here or installed."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm.errors import InputError, nearest
from openglm.model.model import Model

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def matches(source: str) -> bool:
    """Whether `source` has the form module:function and is no path."""
    return bool(_NAME.fullmatch(source)) and not Path(source).exists()


def load(source: str) -> Model:
    """The model that the function returns: a `Model`, or an nn.Module and example inputs.

    Asking for it runs the user's code. Raises `InputError` where that fails or gives something else.
    """
    module_name, _, function_name = source.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
        function = getattr(module, function_name, None)
        if not callable(function):
            functions = [key for key, value in vars(module).items() if callable(value)]
            raise InputError(
                f"{module.__file__ or module_name} has no function '{function_name}'.",
                nearest(function_name, functions) if functions else "It defines none.",
            )
        made = function()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"{source} cannot be made: {type(error).__name__}: {error}.",
            f"Give module:function, with module.py in {folder} or installed.",
        ) from error
    finally:
        sys.path.remove(folder)
    model = _model(source, made)
    model.source = source
    return model


def _model(source: str, made: Any) -> Model:
    from openglm.model.sources.module import wrap

    if isinstance(made, Model):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping | Sequence):
        return wrap(made[0], made[1], name=source.partition(":")[2])
    raise InputError(
        f"{source} returned {type(made).__name__}.",
        "Return AutoModel.wrap(module, example_inputs), or the two as a tuple.",
    )
