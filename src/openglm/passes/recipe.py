"""Recipes: passes in the order they are applied, as TOML files that people read and write.

[[steps]]
pass = "neuron_pruning"
keep = 0.5

[[steps]]
pass = "dynamic_wi8_ai8"

A file may name engines besides, which the bundle that it makes is exported for:

[targets]
runtimes = ["mnn", "litert"]
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.passes.contract import GraphPass, ModulePass, PassConfig, ProgramPass, parse_step

Recipe = tuple[PassConfig, ...]


class Targets(BaseModel):
    """Engines for a bundle, as `openglm.export` takes them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtimes: tuple[str, ...] = Field(min_length=1)
    precision: Precision | None = None
    sizes: dict[str, tuple[int, ...]] = {}


_FORM = 'A recipe is steps such as [[steps]] pass = "dynamic_wi8_ai8", one for each pass.'


def code(recipe: Sequence[PassConfig]) -> str:
    """A recipe in one line."""
    return " + ".join(step.code for step in recipe) or "as it is"


def parse(steps: Sequence[Mapping[str, Any]]) -> Recipe:
    """The passes of a recipe's steps; raises `InputError` for one that is not valid or out of order."""
    recipe = tuple(parse_step(step) for step in steps)
    for step, following in pairwise(recipe):
        if isinstance(step, ProgramPass) and not isinstance(following, ProgramPass):
            raise InputError(
                f"The recipe has {following.scheme} after {step.scheme}, which makes a program of the model.",
                f"Put {step.scheme} behind it.",
            )
        if isinstance(step, ProgramPass) and not step.leaves_whole:
            raise InputError(
                f"The recipe has {following.scheme} after {step.scheme}, which cuts the model into pieces.",
                f"Put {step.scheme} last.",
            )
        if isinstance(step, GraphPass) and isinstance(following, ModulePass):
            raise InputError(
                f"The recipe has {following.scheme}, which works on the PyTorch module, after {step.scheme}, "
                "which works on the exported graph.",
                "Put passes on modules (pruning, factorising, training) before those on graphs.",
            )
    return recipe


def split(
    recipe: Sequence[PassConfig],
) -> tuple[tuple[ModulePass, ...], tuple[GraphPass, ...], tuple[ProgramPass, ...]]:
    """A recipe's passes on the module, those on the graph, and those that make a program of it."""
    return (
        tuple(step for step in recipe if isinstance(step, ModulePass)),
        tuple(step for step in recipe if isinstance(step, GraphPass)),
        tuple(step for step in recipe if isinstance(step, ProgramPass)),
    )


def digest(recipe: Sequence[PassConfig]) -> str:
    """Sixteen hexadecimal digits that stand for a recipe."""
    text = json.dumps([step.to_recipe() for step in recipe], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path) -> Recipe:
    """The recipe in a TOML file; raises `InputError` for a file that is none."""
    content = _content(path)
    steps = content.get("steps")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise InputError(f"The recipe {path} has no steps.", _FORM)
    if others := set(content) - {"steps", "targets"}:
        raise InputError(f"The recipe {path} has '{sorted(others)[0]}' beside its steps.", _FORM)
    return parse(steps)


def read_targets(path: Path) -> Targets | None:
    """The engines that a recipe's file names, if it does; raises `InputError` for ones that are not valid."""
    given = _content(path).get("targets")
    try:
        return None if given is None else Targets.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"The targets of {path} are not valid at {'.'.join(map(str, first['loc']))}: {first['msg']}.",
            'Write them as [targets] runtimes = ["mnn"].',
        ) from error


def _content(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no recipe {path}.", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The recipe {path} cannot be read: {error}.", _FORM) from error


def toml(steps: Sequence[Mapping[str, Any]]) -> str:
    """A recipe's steps as TOML: one table each. What is None is left out, as TOML has no word for it."""
    tables = []
    for step in steps:
        lines = [f"{_key(key)} = {_value(value)}" for key, value in step.items() if value is not None]
        tables.append("\n".join(["[[steps]]", *lines]))
    return "\n\n".join(tables)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {inner} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value if item is not None)}]"
    # A JSON string is a TOML basic string, but for DEL, which JSON leaves bare and TOML refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
