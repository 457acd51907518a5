"""LiteRT, TensorFlow Lite as it was: Google's engine for phones. Graphs have fixed sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.device.host import usable_cores
from openglm.errors import InputError
from openglm.runtimes.buckets import Batch, BucketRunner, Buckets, beside, graph_name
from openglm.runtimes.engine import Engine, Source, check_threads, reason


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

    def load(self, path: Path, *, threads: int | None = None) -> Runner | FileRunner:
        """A file of an exported bundle, or any other .tflite file."""
        return (Runner if beside(path).is_file() else FileRunner)(path, threads=threads)

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


class FileRunner:
    """A .tflite file of whatever origin, loaded in LiteRT. It is given and gives what the file says: the
    integers themselves where it is quantized to its ends."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Raises `InputError` for a file that is broken, or that LiteRT does not take."""
        from openglm.model.tflite.reading import read

        check_threads(threads)
        file = read(path)
        from ai_edge_litert.interpreter import Interpreter

        self.inputs, self._outputs = list(file.input_names), file.output_names
        self._places = dict(zip(file.input_names, file.subgraphs[0].inputs, strict=True))
        self._given = file.subgraphs[0].outputs
        try:
            self._interpreter = Interpreter(str(path), num_threads=threads or usable_cores())
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"LiteRT cannot load {path.name}: {reason(error)}.",
                "Check that its operators are TensorFlow Lite's own.",
            ) from error

    def run(self, arrays: Batch) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        engine = self._interpreter
        shapes = {each["index"]: tuple(each["shape"]) for each in engine.get_input_details()}
        try:
            if any(shapes[place] != arrays[name].shape for name, place in self._places.items()):
                for name, place in self._places.items():
                    engine.resize_tensor_input(place, arrays[name].shape)
                engine.allocate_tensors()
            for name, place in self._places.items():
                engine.set_tensor(place, arrays[name])
            engine.invoke()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"The model cannot run on these inputs: {reason(error)}.", "Check their shapes and values."
            ) from error
        return {
            name: engine.get_tensor(place) for name, place in zip(self._outputs, self._given, strict=True)
        }


def _quantize(target: Path, precision: Precision) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(target))
    recipes = {"int8": recipe.dynamic_wi8_afp32, "int4": recipe.dynamic_wi4_afp32}
    made.load_quantization_recipe(recipes[precision]())
    made.quantize().export_model(str(target), overwrite=True)
