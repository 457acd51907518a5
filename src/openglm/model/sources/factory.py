"""`module:function`: a function of the user's own that makes the model, found here or installed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm import named
from openglm.errors import InputError
from openglm.model.model import Model

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def matches(source: str) -> bool:
    """Whether `source` has the form module:function and is no path."""
    return bool(_NAME.fullmatch(source)) and not Path(source).exists()


def load(source: str) -> Model:
    """The model that the function returns: a `Model`, or an nn.Module and example inputs.

    Asking for it runs the user's code. Raises `InputError` where that fails or gives something else.
    """
    try:
        with named.importing(source) as module:
            made = named.function(module, source)()
    except InputError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise InputError(
            f"{source} cannot be made: {type(error).__name__}: {error}.", named.advice()
        ) from error
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
