"""LiteRT, TensorFlow Lite as it was: Google's engine for phones. Graphs have fixed sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.buckets import Batch, Buckets, beside
from openglm.runtimes.engine import Engine, Source, check_threads


class LiteRT(Engine):
    """A .tflite file with a signature for each size, which share their weights, and the sizes beside it.

    With integer weights activations are quantized as they come: what TensorFlow calls dynamic range.
    """

    name: ClassVar[str] = "litert"
    title: ClassVar[str] = "LiteRT"
    package: ClassVar[str] = "ai-edge-litert"
    converters: ClassVar[tuple[str, ...]] = ("litert-torch", "ai-edge-quantizer")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8", "int4")
    suffix: ClassVar[str] = ".tflite"

    def processors(self) -> tuple[str, ...]:
        import ai_edge_litert.interpreter  # noqa: F401  # so that a broken installation shows

        return ("CPU (XNNPACK)",)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        import litert_torch
        import torch

        from openglm.model.modules.graph_module import of_graph
        from openglm.model.sources import onnx_file

        buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
        module = of_graph(onnx_file.read(source.plain), named=True)
        converter = litert_torch.Converter()
        for place in range(len(buckets.sizes)):
            example = {
                spec.name: torch.ones(buckets.shapes(place)[spec.name], dtype=getattr(torch, spec.dtype))
                for spec in buckets.inputs
            }
            converter.add_signature(_signature(place), module, sample_kwargs=example)
        try:
            converter.convert().export(str(target))
            if precision in ("int8", "int4"):
                _quantize(target, precision)
        except Exception as error:  # its kinds share no base
            problem = f"LiteRT cannot convert it: {_reason(error)}."
            raise InputError(problem, "Try another engine.") from error
        buckets.write(target)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)

    def files(self, target: Path) -> Sequence[Path]:
        return target, beside(target)


class Runner:
    """A model loaded in LiteRT."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        from openglm.device.host import usable_cores

        check_threads(threads)
        try:
            self._buckets = Buckets.read(path)
            self._interpreter = Interpreter(str(path), num_threads=threads or usable_cores())
            self._calls = [
                self._interpreter.get_signature_runner(_signature(place))
                for place in range(len(self._buckets.sizes))
            ]
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"LiteRT cannot load {path.name}: {_reason(error)}.", "Export the bundle again."
            ) from error
        self.inputs = [spec.name for spec in self._buckets.inputs]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        return self._buckets.run(arrays, self._call)

    def _call(self, place: int, arrays: Batch) -> Batch:
        narrow = {
            name: array.astype(np.int32) if array.dtype == np.int64 else array
            for name, array in arrays.items()
        }
        found: dict[str, np.ndarray] = self._calls[place](**narrow)
        return found


def _quantize(target: Path, precision: Precision) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(target))
    recipes = {"int8": recipe.dynamic_wi8_afp32, "int4": recipe.dynamic_wi4_afp32}
    made.load_quantization_recipe(recipes[precision]())
    made.quantize().export_model(str(target), overwrite=True)


def _signature(place: int) -> str:
    return f"size_{place}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).removesuffix(".")[:300]
