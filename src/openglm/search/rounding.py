"""How far a bundle's outputs move where floats are rounded otherwise, as another processor's kernels do.

A float that falls on the other side of a rounding to int8 moves by a step, and all that follows moves with
it: a graph with int8 between its layers moves by per cents where a weight moves by its last bit. So the
recorded inputs run through copies whose floating-point constants have moved by so much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Program
from openglm.dynamic.program import open_program
from openglm.dynamic.session import difference, read_probes
from openglm.model.sources import onnx_file
from openglm.model.tensor import TensorSpec
from openglm.runtimes.onnxruntime import NAME

COPIES = 3


def rounding(program: Program, outputs: Sequence[TensorSpec], folder: Path, probes: Path) -> float:
    """The largest difference from the outputs in the `probes` file, as a share of the largest output, of all
    copies of a bundle's program in `folder`."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(COPIES):
        with tempfile.TemporaryDirectory(prefix="openglm-") as name:
            for segment in program.segments:
                model = onnx_file.read(folder / segment.models[NAME])
                _move(model.graph, rng)
                onnx_file.write(model, Path(name) / segment.models[NAME])
            runner = open_program(program, outputs, Path(name))
            for given, recorded in read_probes(probes):
                found = runner.run(given)
                worst = max(worst, *(difference(found[key], array) for key, array in recorded.items()))
    return float(f"{worst:.3g}")


def _move(graph: ir.Graph, rng: np.random.Generator) -> None:
    """Constants towards zero, where nothing overflows, by up to one unit in the last place. Single numbers,
    such as the 1 in 1 - mask, are exact."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or tensor.size == 1:
            continue
        array = tensor.numpy()
        moved = array * (1 - np.finfo(array.dtype).eps * rng.random(array.shape))
        value.const_value = ir.tensor(moved.astype(array.dtype), name=value.name)
