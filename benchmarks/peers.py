"""The other tools that the quantization benchmark compares with, each with its best sensible settings.

A function here takes the fp32 ONNX file and writes the quantized model to a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

# Both tools report on their users unless told not to, and read this when they are imported.
os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
os.environ["NNCF_CI"] = "1"

Batch = Mapping[str, np.ndarray]
Run = Callable[[Batch], np.ndarray]
PACKAGES = ("onnxruntime", "olive-ai", "openvino", "nncf")


def versions() -> dict[str, str]:
    """The installed version of each peer; raises `SystemExit` with what to do where one is missing."""
    found, missing = {}, []
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise SystemExit(
            f"This benchmark compares with {', '.join(missing)}, not installed here. "
            'In an environment of its own: pip install -c constraints.txt -e ".[dev,peers]"'
        )
    return found


def without_shapes(source: Path, target: Path) -> Path:
    """The model without what its exporter inferred of shapes, which ONNX Runtime's tools contradict."""
    import onnx

    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


def ort_dynamic(source: Path, target: Path, *, per_channel: bool) -> None:
    """onnxruntime.quantization, dynamic, signed weights: the ones it has fast kernels for."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = without_shapes(source, target.with_suffix(".plain.onnx"))
    quantize_dynamic(plain, target, weight_type=QuantType.QInt8, per_channel=per_channel)
    plain.unlink()


def ort_static(source: Path, target: Path, batches: Iterable[Batch], *, method: str) -> None:
    """onnxruntime.quantization, pre-processed, QDQ, signed weights per channel, unsigned activations."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(
        prepared,
        target,
        _Reader(batches),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )
    prepared.unlink()


class _Reader:
    """Batches as onnxruntime.quantization reads them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = list(batches)
        self.rewind()

    def get_next(self) -> Batch | None:
        return next(self._rest, None)

    def rewind(self) -> None:
        self._rest = iter(self._batches)


def olive_dynamic(source: Path, target: Path, *, per_channel: bool) -> None:
    """Olive's OnnxDynamicQuantization."""
    _olive("OnnxDynamicQuantization", source, target, {"precision": "int8", "per_channel": per_channel})


def olive_static(source: Path, target: Path, batches: Iterable[Batch]) -> None:
    """Olive's OnnxStaticQuantization, QDQ, signed weights per channel, unsigned activations."""
    from olive.data.registry import Registry

    read = list(batches)
    Registry.register_dataset("openglm_none")(lambda **_: None)
    Registry.register_dataloader("openglm_batches")(lambda *_, **__: read)
    data = {
        "name": "calibration",
        "load_dataset_config": {"type": "openglm_none"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "openglm_batches"},
    }
    config = {"precision": "int8", "activation_type": "uint8", "per_channel": True, "data_config": data}
    _olive("OnnxStaticQuantization", source, target, config)


def _olive(name: str, source: Path, target: Path, config: dict[str, Any]) -> None:
    from olive.hardware.accelerator import AcceleratorSpec
    from olive.model import ONNXModelHandler
    from olive.passes.olive_pass import create_pass_from_dict
    from olive.passes.onnx import quantization

    accelerator = AcceleratorSpec("cpu", "CPUExecutionProvider")
    step = create_pass_from_dict(
        getattr(quantization, name), config, disable_search=True, accelerator_spec=accelerator
    )
    step.run(ONNXModelHandler(str(source)), str(target))


def nncf_onnx(source: Path, target: Path, batches: Iterable[Batch], *, transformer: bool) -> None:
    """NNCF on the ONNX model, to be run by ONNX Runtime."""
    import nncf
    import onnx

    plain = without_shapes(source, target.with_suffix(".plain.onnx"))
    model = onnx.load(plain)
    onnx.save(nncf.quantize(model, nncf.Dataset(list(batches)), **nncf_settings(transformer)), target)
    plain.unlink()


def nncf_openvino(source: Path, target: Path, batches: Iterable[Batch], *, transformer: bool) -> None:
    """NNCF on OpenVINO's form of the model, an .xml file with a .bin beside it."""
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    model = nncf.quantize(model, nncf.Dataset(list(batches)), **nncf_settings(transformer))
    openvino.save_model(model, target, compress_to_fp16=False)


def nncf_settings(transformer: bool) -> dict[str, Any]:
    """What NNCF is told of the kind of model."""
    import nncf

    if transformer:
        return {"model_type": nncf.ModelType.TRANSFORMER}
    return {"preset": nncf.QuantizationPreset.MIXED}


def openvino_run(path: Path, shapes: Mapping[str, list[int]] | None, hint: str | None) -> Run:
    """The model in OpenVINO on one thread; compiled for `shapes`, or for any where None."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    if shapes is not None:
        model.reshape(dict(shapes))
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if hint is not None:
        config["INFERENCE_PRECISION_HINT"] = hint
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda batch: next(iter(request.infer(dict(batch), share_inputs=True).values())).copy()
