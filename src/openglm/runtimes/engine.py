"""What an inference engine is: whether it is here, what it converts a graph to, how it loads and runs it.

An engine is one file here that defines one `Engine`; nothing else names it. Engines of other packages are
found through the entry point group "openglm.runtimes".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, entry_points
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError, MissingExtraError, nearest
from openglm.model.tensor import TensorSpec, specs
from openglm.registry import registered

if TYPE_CHECKING:
    import onnx_ir as ir


STATIC = {"QuantizeLinear", "DequantizeLinear"}
"""The operators of graphs whose activations have ranges: these run in integers as they are."""
PROCESSOR = ":"
"""Between an engine's name and its processor."""


class Runs(Protocol):
    """A loaded graph."""

    @property
    def inputs(self) -> list[str]:
        """The names of what it takes."""
        ...

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        ...


@dataclass(frozen=True)
class Source:
    """A graph to convert."""

    graph: Path
    """As it is in the bundle, quantized or not: an ONNX file."""
    plain: Path
    """The same in float32."""
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """What an open dimension is converted for, by its name, where an engine wants sizes fixed."""
    calibration: Path | None = None
    """Inputs of the graph, as `batches.save` keeps them, for engines that find ranges of activations."""

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes."""
        return specs(self._read.graph.inputs)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives."""
        return specs(self._read.graph.outputs)

    @cached_property
    def operators(self) -> frozenset[str]:
        """The operators of `graph`, by their types."""
        return frozenset(node.op_type for node in self._read.graph.all_nodes())

    @property
    def static(self) -> bool:
        """Whether `graph` has convolutions in integers: activations with ranges of their own."""
        return self.operators >= {"Conv", "QuantizeLinear", "DequantizeLinear"}

    @cached_property
    def _read(self) -> ir.Model:
        from openglm.model.sources import onnx_file  # what runs a bundle reads no graph

        return onnx_file.read(self.graph)


class Engine(ABC):
    """An inference engine."""

    name: ClassVar[str]
    """As it stands in manifests: "onnxruntime", "mnn", ..."""
    title: ClassVar[str]
    package: ClassVar[str]
    """The distribution whose version is the engine's."""
    converters: ClassVar[tuple[str, ...]] = ()
    """Distributions that converting needs besides."""
    precisions: ClassVar[tuple[Precision, ...]]
    suffix: ClassVar[str]
    """Of its files."""
    chooses: ClassVar[bool] = False
    """Whether it can be told which of its processors to run on."""
    processor: str | None = None
    """The one that was chosen, of `processors`."""
    arena: bool = True
    """Whether memory is kept from one run to the next, where the engine has the choice."""

    @property
    def label(self) -> str:
        """Its name, with the processor that was chosen: "onnxruntime:XNNPACK"."""
        return self.name if self.processor is None else f"{self.name}{PROCESSOR}{self.processor}"

    @property
    def runs(self) -> bool:
        """Whether it can run on this machine what it converts."""
        return True

    @property
    def version(self) -> str | None:
        """The version that is here; none where it is not."""
        return _version(self.package)

    @property
    def install(self) -> str:
        """The command that installs what running and converting need."""
        return f"pip install 'openglm[{self.name}]'"

    @property
    def lacking(self) -> tuple[str, ...]:
        """The distributions that converting needs and that are not here."""
        return tuple(name for name in (self.package, *self.converters) if _version(name) is None)

    @abstractmethod
    def processors(self) -> tuple[str, ...]:
        """What it can run on, on this machine; called only where it is here."""

    @abstractmethod
    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        """Write the engine's form of a graph to `target`; raises `InputError` with the reason where it
        cannot."""

    @abstractmethod
    def load(self, path: Path, *, threads: int | None = None) -> Runs:
        """A converted file, ready to run with as many threads, all of the machine's where None; raises
        `InputError` for a file the engine does not take."""

    def load_each(self, paths: Sequence[Path], *, threads: int | None = None) -> list[Runs]:
        """Files that run one after another, never two at once, loaded as by `load`: what can be one to them
        all, they share."""
        return [self.load(path, threads=threads) for path in paths]

    def files(self, target: Path) -> Sequence[Path]:
        """The files that `convert` wrote."""
        return (target,)

    def on(self, processor: str) -> Engine:
        """The same engine on one of its processors; raises `InputError` where it has none of this name, or
        cannot be told."""
        if not self.chooses:
            raise InputError(
                f"{self.title} chooses its processor by itself.", f"Ask for '{self.name}' without more."
            )
        known = {name.lower(): name for name in self.processors()}
        if processor.lower() not in known:
            raise InputError(
                f"{self.title} has no processor '{processor}' here.", f"It has {', '.join(known.values())}."
            )
        chosen = copy(self)
        chosen.processor = known[processor.lower()]
        return chosen

    def lean(self) -> Engine:
        """The same engine without an arena: runs are slower, and leave no memory behind."""
        chosen = copy(self)
        chosen.arena = False
        return chosen

    def placed(self, path: Path) -> Mapping[str, Sequence[str]]:
        """What runs which operators of a converted file, the processor that was asked for first; empty
        where the engine does not tell."""
        return {}

    def check(self, source: Source, target: Path, precision: Precision) -> None:
        """Compare a converted file with its source without running it, where the engine does not run here;
        raises `InputError` where they differ."""
        raise InputError(f"{self.title} does not run here.", "Export the bundle where it does.")


@cache
def engines() -> dict[str, Engine]:
    """Every engine by its name, those of installed plug-ins included, whether it is installed or not."""
    import openglm.runtimes as here

    for point in entry_points(group="openglm.runtimes"):
        point.load()
    kinds = registered(here, Engine, "name")  # type: ignore[type-abstract]
    return {name: kinds[name]() for name in sorted(kinds)}


def engine(label: str) -> Engine:
    """An installed engine, by its name or its label; raises `InputError` for an unknown one, or a processor
    that it has not, `MissingExtraError` for one that is not installed."""
    name, _, processor = label.partition(PROCESSOR)
    if name not in engines():
        raise InputError(f"There is no engine '{name}'.", nearest(name, list(engines())))
    found = engines()[name]
    if found.version is None:
        raise MissingExtraError(f"{found.title}, the engine asked for,", name)
    return found.on(processor) if processor else found


def name_of(label: str) -> str:
    """The name in an engine's label."""
    return label.partition(PROCESSOR)[0]


def check_threads(threads: int | None) -> None:
    """Raise `InputError` for a number of threads that is none."""
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads cannot run anything.", "Give a number from 1 on.")


def reason(error: Exception) -> str:
    """The first line of what an engine says, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).removesuffix(".")[:300]


def _version(distribution: str) -> str | None:
    try:
        return installed(distribution)
    except PackageNotFoundError:
        return None
