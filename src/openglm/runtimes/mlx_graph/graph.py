"""A graph of operators as MLX's engine keeps it: one safetensors file, the graph in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.errors import InputError
from openglm.model.tensor import TensorSpec
from openglm.runtimes.mlx_graph.held import Held, device
from openglm.runtimes.mlx_graph.operators import OPERATORS

GRAPH = "graph"
"""The key of the metadata."""
SIZES = 16
"""So many numbers in a row, at most, are taken as sizes, axes and the like, which stay in numpy."""


class Node(BaseModel):
    """One operator."""

    model_config = ConfigDict(frozen=True)

    operator: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    settings: dict[str, int | float | str | list[int] | list[float]] = {}


class Graph(BaseModel):
    """Operators in the order in which they are computed; what no operator gives is an input or a weight."""

    model_config = ConfigDict(frozen=True)

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]

    def write(self, weights: Mapping[str, np.ndarray | mx.array], target: Path) -> None:
        """Keep it with its weights."""
        held = {name: device(weight) for name, weight in weights.items()}
        mx.save_safetensors(str(target), held, {GRAPH: self.model_dump_json()})

    @classmethod
    def read(cls, path: Path) -> tuple[Graph, dict[str, Held]]:
        """The graph and its weights; raises `RuntimeError` and `ValueError` for what is none."""
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        weights, metadata = loaded
        graph = cls.model_validate_json(metadata.get(GRAPH, ""))
        if unknown := {node.operator for node in graph.nodes} - set(OPERATORS):
            raise ValueError(f"there is no operator {sorted(unknown)[0]}")
        mx.eval(weights)
        return graph, {
            name: np.array(weight) if weight.ndim < 2 and weight.size <= SIZES else weight
            for name, weight in weights.items()
        }

    def compute(self, given: Sequence[mx.array], weights: Mapping[str, Held]) -> list[mx.array]:
        """The outputs for the inputs, both in the graph's order, not evaluated yet; raises `InputError` for
        what an operator cannot compute."""
        values: dict[str | None, Held] = {None: None, **dict(weights.items())}
        values |= zip((spec.name for spec in self.inputs), given, strict=True)
        for node in self.nodes:
            arguments = [values[name] for name in node.inputs]
            try:
                found = OPERATORS[node.operator](*arguments, **node.settings)
            except (ValueError, TypeError, IndexError, RuntimeError) as error:
                raise InputError(
                    f"{node.operator} cannot compute '{node.outputs[0]}': {error}.",
                    "Check the inputs' shapes.",
                ) from error
            several = found if isinstance(found, list | tuple) else [found]
            values |= {
                name: value if isinstance(value, mx.array) else np.asarray(value)
                for name, value in zip(node.outputs, several, strict=False)
            }
        return [device(values[spec.name]) for spec in self.outputs]
