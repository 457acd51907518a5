"""LiteRT, TensorFlow Lite as it was: Google's engine for phones. Graphs have fixed sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.buckets import Batch, BucketRunner, Buckets, beside, graph_name
from openglm.runtimes.engine import Engine, Source, reason


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

        from openglm.model.modules.graph_module import of_graph
        from openglm.model.sources import onnx_file

        buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
        module = of_graph(onnx_file.read(source.plain), named=True)
        converter = litert_torch.Converter()
        for place in range(len(buckets.sizes)):
            converter.add_signature(graph_name(place), module, sample_kwargs=buckets.example(place))
        try:
            converter.convert().export(str(target))
            if precision in ("int8", "int4"):
                _quantize(target, precision)
        except Exception as error:  # its kinds share no base
            problem = f"LiteRT cannot convert it: {reason(error)}."
            raise InputError(problem, "Try another engine.") from error
        buckets.write(target)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)

    def files(self, target: Path) -> Sequence[Path]:
        return target, beside(target)


class Runner(BucketRunner):
    """A model loaded in LiteRT."""

    title = LiteRT.title

    def _open(self, path: Path, threads: int, graphs: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(path), num_threads=threads)
        self._calls = [self._interpreter.get_signature_runner(graph_name(place)) for place in range(graphs)]

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
