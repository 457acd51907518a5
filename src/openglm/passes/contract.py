"""What a pass is: a config, and a function of a model that returns a new one.

Some work on the PyTorch module (`ModulePass`: pruning, factorising, training), others on the exported
graph (`GraphPass`: fusing, quantizing), and the last make a program of the graph (`ProgramPass`);
in a recipe they come in this order.

A technique is one file here that defines one `PassConfig`; nothing else names it. Passes of other
packages are found through the entry point group "openglm.passes".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, ValidationError

from openglm.bundle.manifest import Program
from openglm.data.dataset import Dataset
from openglm.errors import InputError, nearest
from openglm.model.model import Model
from openglm.registry import registered


@dataclass(frozen=True)
class Context:
    """What a pass may use besides the model."""

    calibration: Callable[[], Iterable[Mapping[str, np.ndarray]]] | None = None
    """Gives the calibration batches, arrays by input name, anew at each call; they are streamed."""
    labelled: Callable[[], Iterable[tuple[Mapping[str, np.ndarray], float | None]]] | None = None
    """Gives samples one at a time with their labels, if there are any: what thresholds are set on."""
    progress: Callable[[int], None] = lambda _: None
    """Told how many calibration batches have been seen."""
    teacher: Model | None = None
    """The model as it was before the recipe, for distillation."""
    training: Dataset | None = None
    """What is trained on, with labels or without."""
    checkpoint: Path | None = None
    """A folder of this step's own, where training keeps its state and finds it again."""
    trained: Callable[[float, str], None] = lambda _, __: None
    """Told which share of a training is done, 0 to 1, and a few words on how it goes."""
    shared: dict[str, Any] | None = None
    """What trainings from the same teacher keep for each other: rows, and what the teacher says of them."""


@dataclass(frozen=True)
class Applied:
    """What a graph pass returns."""

    graph: ir.Model
    changed: bool
    notes: tuple[str, ...] = field(default=())
    """Plain sentences for the report: what was left alone, and why."""


@dataclass(frozen=True)
class Adapted:
    """What a module pass returns."""

    model: Model
    changed: bool
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Draft:
    """What a program pass returns: a program whose segments are not written yet."""

    program: Program
    graphs: Mapping[str, ir.Model]
    """By segment."""
    notes: tuple[str, ...] = field(default=())
    small: int | None = None
    """Pixels up to which pictures are left small, where they go another way then."""
    whole: str | None = None
    """The segment that is the model as it came, if one is."""


class PassConfig(BaseModel, ABC):
    """Configuration of a pass, checked when it is made; `apply`, of its kinds below, is the pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: ClassVar[str]
    """The documented code: "fuse", "dynamic_wi8_ai8", ..."""
    needs_calibration: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False
    """Whether it trains, on `Context.training`."""

    @property
    def code(self) -> str:
        """The scheme with what distinguishes this config, such as "wi4_afp32_g32"."""
        return self.scheme

    def to_recipe(self) -> dict[str, Any]:
        """This config as one step of a recipe."""
        return {"pass": self.scheme, **self.model_dump(mode="json")}


class GraphPass(PassConfig):
    """A pass on the exported graph, for any engine."""

    @abstractmethod
    def apply(self, graph: ir.Model, context: Context) -> Applied:
        """The graph after this pass; `graph` itself stays as it is."""


class ModulePass(PassConfig):
    """A pass on the PyTorch module."""

    @abstractmethod
    def apply(self, model: Model, context: Context) -> Adapted:
        """The model after this pass, its module a changed copy; `model` itself stays as it is."""


class ProgramPass(PassConfig):
    """A pass that makes a program of the exported graph: segments, and gates between them."""

    together: ClassVar[bool] = False
    """Whether what it gains shows only where several inputs come at once."""
    leaves_whole: ClassVar[bool] = False
    """Whether one of its segments is the model as it came, which another such pass may then work on."""

    @property
    def sets_gates(self) -> bool:
        """Whether it needs samples to set its gates on."""
        return self.needs_calibration

    @abstractmethod
    def apply(self, graph: ir.Model, context: Context) -> Draft:
        """The program; `graph` itself stays as it is."""


def schemes() -> dict[str, type[PassConfig]]:
    """Every pass by its scheme, those of installed plug-ins included."""
    import openglm.passes as here

    for point in entry_points(group="openglm.passes"):
        point.load()
    return registered(here, PassConfig, "scheme")


def parse_step(step: Mapping[str, Any]) -> PassConfig:
    """The config of one step of a recipe: {"pass": scheme, field: value, ...}.

    Raises `InputError` for an unknown scheme, with the nearest, or a field that is not valid.
    """
    values = dict(step)
    name = str(values.pop("pass", ""))
    known = schemes()
    if name not in known:
        raise InputError(f"There is no pass '{name}'.", nearest(name, known))
    try:
        return known[name].model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its fields"
        raise InputError(
            f"The pass '{name}' is not valid at {where}: {first['msg']}.",
            f"Its fields are: {', '.join(known[name].model_fields) or 'none'}.",
        ) from error
