"""TensorRT: NVIDIA's engine for its GPUs, in servers and in Jetson boards. A file is for one kind of GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.buckets import Buckets
from openglm.runtimes.engine import STATIC, Engine, Source, check_threads

ROWS = 32
"""The most rows of a batch."""


class TensorRT(Engine):
    """A serialized engine, built for the GPU that is here. Open sizes go from 1 to the largest that is given,
    and are fastest at the middle one.

    int8 wants a graph whose activations have ranges (`static_wi8_ai8`), with no zero points.
    """

    name: ClassVar[str] = "tensorrt"
    title: ClassVar[str] = "TensorRT"
    package: ClassVar[str] = "tensorrt"
    converters: ClassVar[tuple[str, ...]] = ("cuda-python",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8")
    suffix: ClassVar[str] = ".engine"

    def processors(self) -> tuple[str, ...]:
        from cuda.bindings import runtime

        error, count = runtime.cudaGetDeviceCount()
        if int(error):  # no driver, or no GPU
            return ()
        return tuple(_done(runtime.cudaGetDeviceProperties(place)).name.decode() for place in range(count))

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        if precision == "int8" and not source.operators >= STATIC:
            raise InputError(
                "TensorRT has int8 only for graphs whose activations have ranges.", "Apply static_wi8_ai8."
            )
        import tensorrt

        logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        builder = tensorrt.Builder(logger)
        kinds = tensorrt.NetworkDefinitionCreationFlag
        # Typed as the graph is; with fp16 the builder chooses where it is faster.
        network = builder.create_network(0 if precision == "fp16" else 1 << int(kinds.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(source.graph if precision == "int8" else source.plain)):
            said = "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))
            raise InputError(f"TensorRT cannot convert it: {said[:300]}.", "Try another engine.")
        config = builder.create_builder_config()
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # else products of float32 have 10 bits
        if precision == "fp16":
            config.set_flag(tensorrt.BuilderFlag.FP16)
        profile = builder.create_optimization_profile()
        for name, shapes in ranges(source).items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
        made = builder.build_serialized_network(network, config)
        if made is None:
            raise InputError("TensorRT cannot build an engine of it.", "Try another precision or engine.")
        target.write_bytes(bytes(made))

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        check_threads(threads)
        return Runner(path)


class Runner:
    """An engine loaded on the GPU."""

    def __init__(self, path: Path) -> None:
        import tensorrt
        from cuda.bindings import runtime

        self._cuda = runtime
        self._logger = tensorrt.Logger(tensorrt.Logger.ERROR)
        engine = tensorrt.Runtime(self._logger).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise InputError(
                f"TensorRT cannot load {path.name}: it is broken, or of another GPU or version.",
                "Export the bundle again on this machine.",
            )
        self._engine, self._context = engine, engine.create_execution_context()
        self._stream = _done(runtime.cudaStreamCreate())
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        kinds = {name: engine.get_tensor_mode(name) for name in names}
        self.inputs = [name for name in names if kinds[name] == tensorrt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self._types = {name: np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))) for name in names}

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        given = {name: np.ascontiguousarray(arrays[name], self._types[name]) for name in self.inputs}
        for name, array in given.items():
            if not self._context.set_input_shape(name, array.shape):
                raise InputError(
                    f"The input '{name}' has shape {list(array.shape)}, which the engine was not built for.",
                    "Cut it, or export the bundle again with other --sizes.",
                )
        found = {
            name: np.empty(tuple(self._context.get_tensor_shape(name)), self._types[name])
            for name in self.outputs
        }
        kinds, held = self._cuda.cudaMemcpyKind, {}
        try:
            for name, array in {**given, **found}.items():
                held[name] = _done(self._cuda.cudaMalloc(max(array.nbytes, 1)))
                self._context.set_tensor_address(name, held[name])
            for name, array in given.items():
                self._copy(held[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
            if not self._context.execute_async_v3(self._stream):
                raise InputError("The model cannot run on these inputs.", "Check their shapes.")
            for name, array in found.items():
                self._copy(array.ctypes.data, held[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
            _done(self._cuda.cudaStreamSynchronize(self._stream))
        finally:
            for place in held.values():
                self._cuda.cudaFree(place)
        return found

    def _copy(self, to: int, source: int, count: int, kind: Any) -> None:
        _done(self._cuda.cudaMemcpyAsync(to, source, count, kind, self._stream))


def ranges(source: Source) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The smallest shape, the one to be fast at and the largest of each input with open sizes; raises
    `InputError` for a dimension that no sizes are given for."""
    buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
    sizes = {name: sorted(values) for name, values in source.sizes.items()}
    if buckets.rows is not None:
        sizes[buckets.rows] = [1, 1, ROWS]
    return {
        spec.name: tuple(
            tuple(size if isinstance(size, int) else choose(sizes[size]) for size in spec.shape)
            for choose in (lambda _: 1, lambda values: values[len(values) // 2], max)
        )
        for spec in source.inputs
        if any(isinstance(size, str) for size in spec.shape)
    }


def _done(result: tuple[Any, ...]) -> Any:
    """What a call of CUDA gives; raises `InputError` where it failed."""
    error, *values = result
    if int(error):
        raise InputError(f"The GPU cannot do it: {error.name}.", "Check its memory and driver.")
    return values[0] if values else None
