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

    Convolutions of a statically quantized graph compute in its own integers. Else, with integer weights,
    activations are quantized as they come: what TensorFlow calls dynamic range.
    """

    name: ClassVar[str] = "litert"
    title: ClassVar[str] = "LiteRT"
    package: ClassVar[str] = "ai-edge-litert"
    converters: ClassVar[tuple[str, ...]] = ("litert-torch", "ai-edge-quantizer")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".tflite"

    def processors(self) -> tuple[str, ...]:
        import ai_edge_litert.interpreter  # noqa: F401  # so that a broken installation shows

        return ("CPU (XNNPACK)",)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        import litert_torch
        from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
        from litert_torch.quantize.quant_config import QuantConfig

        from openglm.model.modules.graph_module import of_graph
        from openglm.model.modules.integers import of_static
        from openglm.model.sources import onnx_file

        buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
        settings = {}
        if precision == "int8" and source.static:
            module = of_static(onnx_file.read(source.graph), named=True)
            # It quantizes nothing here: it tells the converter that the module is quantized.
            quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config())
            settings["quant_config"] = QuantConfig(pt2e_quantizer=quantizer)
        else:
            module = of_graph(onnx_file.read(source.plain), named=True)
        converter = litert_torch.Converter()
        for place in range(len(buckets.sizes)):
            converter.add_signature(graph_name(place), module, sample_kwargs=buckets.example(place))
        try:
            converter.convert(**settings).export(str(target))
            if precision != "fp32":
                _quantize(target, precision, static="quant_config" in settings)
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


def _quantize(target: Path, precision: Precision, *, static: bool) -> None:
    """Have smaller weights in a file; of one that is static, in what is no convolution."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    made = quantizer.Quantizer(str(target))
    kinds = qtyping.TFLOperationName
    if precision == "fp16":
        made.add_weight_only_config(
            ".*", kinds.ALL_SUPPORTED, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
        )
    for kind in (kinds.FULLY_CONNECTED, kinds.EMBEDDING_LOOKUP) if static else (kinds.ALL_SUPPORTED,):
        if precision != "fp16":
            made.add_dynamic_config(".*", kind, num_bits=8 if precision == "int8" else 4)
    made.quantize().export_model(str(target), overwrite=True)
