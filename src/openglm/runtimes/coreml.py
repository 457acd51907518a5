"""Core ML: Apple's engine for its CPU, GPU and Neural Engine. Graphs have fixed sizes.

Any machine converts; a Mac runs. Elsewhere what was converted is read again and checked against the graph.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.tensor import identifier
from openglm.runtimes.buckets import Batch, BucketRunner, Buckets, beside, graph_name
from openglm.runtimes.engine import Engine, Source, reason

MAIN = "main"
"""The function of a package that has one size."""
BLOCK = 32
"""Weights that share a scale with int4."""
LARGE = 2048
"""Elements of a weight from which it is quantized, and checked."""


class CoreML(Engine):
    """An .mlpackage, which is a folder, and the sizes beside it. A package of several sizes has a function
    for each, which share their weights (from iOS 18 and macOS 15 on).

    With integers weights are held in int8 by output channel, or in int4 by blocks of 32 (from iOS 18 on);
    activations stay float16.
    """

    name: ClassVar[str] = "coreml"
    title: ClassVar[str] = "Core ML"
    package: ClassVar[str] = "coremltools"
    converters: ClassVar[tuple[str, ...]] = ("torch",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".mlpackage"

    @property
    def runs(self) -> bool:
        return sys.platform == "darwin"

    def processors(self) -> tuple[str, ...]:
        return ("CPU", "GPU", "Neural Engine") if self.runs else ()

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        import coremltools

        from openglm.model.modules.graph_module import of_graph
        from openglm.model.sources import onnx_file

        buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
        module = of_graph(onnx_file.read(source.plain), named=True)
        count = len(buckets.sizes)
        ios18 = precision == "int4" or count > 1
        system = coremltools.target.iOS18 if ios18 else coremltools.target.iOS16
        parts = [target.with_name(f"{graph_name(place)}.{target.name}") for place in range(count)]
        try:
            for place, part in enumerate(parts):
                _converted(module, buckets, place, system, precision).save(str(part))
                # Names of PyTorch's nodes, for its own debugging.
                (part / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
            if count == 1:
                parts[0].rename(target)
            else:
                _joined(parts, target)
        except Exception as error:  # its kinds share no base
            problem = f"Core ML cannot convert it: {reason(error)}."
            raise InputError(problem, "Try another engine.") from error
        buckets.write(target)

    def check(self, source: Source, target: Path, precision: Precision) -> None:
        from openglm.runtimes.coreml_check import check

        check(source, target, precision)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        if not self.runs:
            raise InputError("Core ML runs on a Mac only.", "Use another engine here.")
        return Runner(path, threads=threads)

    def files(self, target: Path) -> Sequence[Path]:
        inside = sorted(file for file in target.rglob("*") if file.is_file())
        return *inside, beside(target)


class Runner(BucketRunner):
    """A package loaded in Core ML, which chooses threads and processors by itself: a Mac's alone."""

    title = CoreML.title

    def _open(self, path: Path, threads: int, graphs: int) -> None:
        from coremltools.models import MLModel

        names = [None] if graphs == 1 else [graph_name(place) for place in range(graphs)]
        self._models = [MLModel(str(path), function_name=name) for name in names]

    def _call(self, place: int, arrays: Batch) -> Batch:
        narrow = {
            name: array.astype(np.int32) if array.dtype.kind in "iub" else array
            for name, array in arrays.items()
        }
        found: dict[str, np.ndarray] = self._models[place].predict(narrow)
        return found


def _converted(module: Any, buckets: Buckets, place: int, system: Any, precision: Precision) -> Any:
    """The network at one size."""
    import coremltools
    import torch

    program = torch.export.export(module, (), kwargs=buckets.example(place)).run_decompositions({})
    computed = coremltools.precision.FLOAT32 if precision == "fp32" else coremltools.precision.FLOAT16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = coremltools.convert(
            program,
            convert_to="mlprogram",
            outputs=[coremltools.TensorType(name=identifier(spec.name)) for spec in buckets.outputs],
            compute_precision=computed,
            minimum_deployment_target=system,
            skip_model_load=True,
        )
        return _quantized(made, precision) if precision in ("int8", "int4") else made


def _quantized(made: Any, precision: Precision) -> Any:
    """The model with integer weights."""
    from coremltools.optimize import coreml

    settings: dict[str, Any] = {"dtype": precision, "granularity": "per_channel"}
    if precision == "int4":
        settings |= {"granularity": "per_block", "block_size": BLOCK}
    config = coreml.OpLinearQuantizerConfig("linear_symmetric", weight_threshold=LARGE, **settings)
    return coreml.linear_quantize_weights(made, coreml.OptimizationConfig(config))


def _joined(parts: Sequence[Path], target: Path) -> None:
    """One package of several, each a function of it."""
    from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

    whole = MultiFunctionDescriptor()
    for place, part in enumerate(parts):
        whole.add_function(str(part), MAIN, graph_name(place))
    whole.default_function_name = graph_name(0)
    save_multifunction(whole, str(target))
