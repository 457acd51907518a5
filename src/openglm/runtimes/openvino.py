"""OpenVINO on the CPU: Intel's engine, which reads ONNX itself, quantized graphs too."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.runtimes.engine import STATIC, Engine, Source, check_threads

CPU = "CPU"


class OpenVINO(Engine):
    """OpenVINO's own files: .xml with the graph, .bin with the weights."""

    name: ClassVar[str] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    package: ClassVar[str] = "openvino"
    converters: ClassVar[tuple[str, ...]] = ("nncf",)
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "int8", "int4")
    suffix: ClassVar[str] = ".xml"
    chooses: ClassVar[bool] = True

    def processors(self) -> tuple[str, ...]:
        import openvino

        return tuple(openvino.Core().available_devices)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        import openvino

        ranges = precision == "int8" and source.operators >= STATIC
        try:
            # Not convert_model, which tells its makers of each call.
            model = openvino.Core().read_model(source.graph if ranges else source.plain)
            if precision in ("int8", "int4") and not ranges:
                model = _with_small_weights(model, precision)
        except Exception as error:  # not all of its kinds are RuntimeErrors
            problem = f"OpenVINO cannot convert it: {_reason(error)}."
            raise InputError(problem, "Try another engine.") from error
        for result, spec in zip(model.get_results(), source.outputs, strict=True):
            result.set_friendly_name(spec.name)
        openvino.save_model(model, target, compress_to_fp16=precision == "fp16")

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads, processor=self.processor or CPU)

    def files(self, target: Path) -> Sequence[Path]:
        return target, target.with_suffix(".bin")


class Runner:
    """A model loaded in OpenVINO."""

    def __init__(self, path: Path, *, threads: int | None = None, processor: str = CPU) -> None:
        import openvino

        check_threads(threads)
        settings: dict[str, Any] = {
            # Of itself it would compute in bfloat16 where the processor can: a thousandth off.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        if threads is not None and processor == CPU:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.read_model(path)
            # Compiled, an output may have more names than its own.
            self.outputs = [result.friendly_name for result in model.get_results()]
            compiled = core.compile_model(model, processor, settings)
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot load {path.name}: {_reason(error)}.", "Export the bundle again."
            ) from error
        self.inputs = [port.any_name for port in compiled.inputs]
        self._request = compiled.create_infer_request()

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name; raises `InputError` for inputs it cannot run on."""
        try:
            found = self._request.infer(dict(arrays), share_inputs=True)
        except RuntimeError as error:
            raise InputError(
                f"The model cannot run on these inputs: {_reason(error)}.", "Check their shapes."
            ) from error
        return {name: np.array(found[place]) for place, name in enumerate(self.outputs)}


def _with_small_weights(model: Any, precision: Precision) -> Any:
    """The model with weights in integers, activations being quantized as they come where that pays."""
    os.environ["NNCF_CI"] = "1"  # else it tells its makers of each call
    import nncf

    modes = {"int8": nncf.CompressWeightsMode.INT8_SYM, "int4": nncf.CompressWeightsMode.INT4_SYM}
    more = {"group_size": 32} if precision == "int4" else {}
    return nncf.compress_weights(model, mode=modes[precision], **more)


def _reason(error: Exception) -> str:
    """The last line that says something: before it stand places in the engine's source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).removeprefix("-- ").removesuffix(".")[:300]
