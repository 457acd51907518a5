"""MLX: Apple's engine for its own processors, with a CPU part for Linux too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.engine import Engine, Source, check_threads, reason


class MLX(Engine):
    """A .safetensors file with the weights, and with the graph in its metadata: MLX has no format of its own.

    With integers the weights of linear layers and of embeddings are held in groups of 64 or 32 that share a
    scale and a bias; activations, and convolutions, stay float.
    """

    name: ClassVar[str] = "mlx"
    title: ClassVar[str] = "MLX"
    package: ClassVar[str] = "mlx"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".safetensors"

    def processors(self) -> tuple[str, ...]:
        import mlx.core as mx

        return ("GPU", "CPU") if mx.is_available(mx.gpu) else ("CPU",)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        from openglm.runtimes.mlx_graph.conversion import convert

        convert(source, target, precision)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)


class Runner:
    """A graph loaded in MLX, which chooses its threads by itself.

    `fused` has elementwise operators compiled into one kernel each: on a GPU if not said. On a CPU this
    calls a C++ compiler, about a second for each kernel, and gains nothing.
    """

    def __init__(self, path: Path, *, threads: int | None = None, fused: bool | None = None) -> None:
        import mlx.core as mx

        from openglm.runtimes.mlx_graph.graph import Graph

        check_threads(threads)
        try:
            self._graph, weights = Graph.read(path)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"MLX cannot load {path.name}: {reason(error)}.", "Export the bundle again."
            ) from error

        def compute(given: list[mx.array]) -> list[mx.array]:
            return self._graph.compute(given, weights)

        fuse = mx.default_device() == mx.gpu if fused is None else fused
        self._compute = mx.compile(compute) if fuse else compute
        self.inputs = [spec.name for spec in self._graph.inputs]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        import mlx.core as mx

        try:
            found = self._compute([mx.array(arrays[name]) for name in self.inputs])
            mx.eval(found)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"The model cannot run on these inputs: {reason(error)}.", "Check their shapes."
            ) from error
        return {
            spec.name: np.array(array).astype(spec.dtype, copy=False)
            for spec, array in zip(self._graph.outputs, found, strict=True)
        }
