"""What an inference engine is: whether it is here, what it converts a graph to, how it loads and runs it.

An engine is one file here that defines one `Engine`; nothing else names it. Engines of other packages are
found through the entry point group "openglm.runtimes".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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

    def files(self, target: Path) -> Sequence[Path]:
        """The files that `convert` writes."""
        return (target,)


@cache
def engines() -> dict[str, Engine]:
    """Every engine by its name, those of installed plug-ins included, whether it is installed or not."""
    import openglm.runtimes as here

    for point in entry_points(group="openglm.runtimes"):
        point.load()
    kinds = registered(here, Engine, "name")  # type: ignore[type-abstract]
    return {name: kinds[name]() for name in sorted(kinds)}


def engine(name: str) -> Engine:
    """An installed engine; raises `InputError` for an unknown one, `MissingExtraError` for another."""
    if name not in engines():
        raise InputError(f"There is no engine '{name}'.", nearest(name, list(engines())))
    found = engines()[name]
    if found.version is None:
        raise MissingExtraError(f"{found.title}, the engine asked for,", name)
    return found


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
