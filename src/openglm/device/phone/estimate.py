"""The roofline's prediction of one unit, replaced by what was learnt from measurements, with an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from openglm.device import instructions, profile
from openglm.device.instructions import Counted
from openglm.device.latency import LatencyPrediction
from openglm.device.phone import coefficients, costs
from openglm.device.phone.coefficients import MEASURED, Coefficients, Factors
from openglm.device.phone.fallback import WHOLE_ON_CPU, falls_back
from openglm.device.phone.workload import boundary_elements, kernels
from openglm.device.profile import Device, Unit
from openglm.model.analysis.statistics import Statistics

Runtime = Literal["onnxruntime", "litert", "qnn"]
RUNTIMES: dict[Runtime, str] = {"onnxruntime": "onnx", "litert": "tflite", "qnn": "qnn_dlc"}
"""As the measurements call them."""

UNKNOWN_WIDENS = 2.0
"""The interval of a graph with unknown shapes or operators is so many times as wide, in log (assumed)."""


def refine(
    prediction: LatencyPrediction,
    statistics: Statistics,
    device: Device,
    runtime: Runtime,
    counts: Sequence[Counted] | None = None,
) -> LatencyPrediction:
    """`prediction` with an interval; on an NPU, also with the milliseconds that measurements teach, and on a
    CPU, where there are `counts`, with those that its instructions say.

    Unchanged where nothing was measured that says how far it may be off: on a GPU, in a runtime or
    scheme without measurements. Layers keep their shares. Raises `InputError` where none of `counts` is of
    this graph and the device's cores.
    """
    if prediction.ms <= 0 or not statistics.macs:
        return prediction
    known = coefficients.load()
    wider = UNKNOWN_WIDENS if statistics.shapes.unknown or statistics.unknown_operators else 1.0
    if prediction.unit.kind == "cpu":
        return _on_cpu(prediction, statistics, device, counts, wider, known)
    if prediction.unit.kind == "npu":
        return _on_npu(prediction, statistics, device, RUNTIMES[runtime], wider, known)
    return prediction


def scheme_of(statistics: Statistics) -> costs.Scheme:
    """What most multiply-accumulates of the graph compute in on an NPU."""
    int8 = sum(layer.macs for layer in statistics.layers if layer.precision == "int8")
    return "w8a8" if int8 > statistics.macs / 2 else "float"


def outside(statistics: Statistics, runtime: Runtime) -> dict[str, int]:
    """Operators of a graph that will not run on the NPU, and how many of each, most first."""
    scheme = scheme_of(statistics)
    found = Counter(
        kernel.op_type
        for kernel in kernels(statistics.shapes)
        if falls_back(kernel, RUNTIMES[runtime], scheme)
    )
    return dict(found.most_common())


def _on_cpu(
    prediction: LatencyPrediction,
    statistics: Statistics,
    device: Device,
    counts: Sequence[Counted] | None,
    wider: float,
    known: Coefficients,
) -> LatencyPrediction:
    if counts is not None:
        counted = instructions.found(counts, statistics, device)
        nominal = counted.nominal_ms(statistics, device, prediction.unit, prediction.threads)
        ms, interval = nominal * math.exp(known.counted_factor), known.counted
        about = f"instructions counted on an emulated {counted.cpu} ({counted.engine})"
    elif device.tier in ("desktop", "host"):  # no measurement is of such a CPU
        return prediction
    else:
        ms, interval, about = prediction.ms, known.cpu, "a roofline"
    about += (
        f"; its error is that on {interval.models} int8 models measured with ONNX Runtime "
        "on the CPUs of a Snapdragon 7 Gen 4 and a QCS6490"
    )
    if MEASURED.get(device.name) != MEASURED["snapdragon-7-gen-4"]:
        about += ", and this CPU was never measured"
    return _with_interval(prediction, ms, interval.low * wider, interval.high * wider, about)


def _on_npu(
    prediction: LatencyPrediction,
    statistics: Statistics,
    device: Device,
    runtime: str,
    wider: float,
    known: Coefficients,
) -> LatencyPrediction:
    if (device.name, runtime) in WHOLE_ON_CPU:
        about = f"{prediction.basis}; when measured, ONNX Runtime ran its models on this chip's CPU instead"
        return replace(prediction, basis=about)
    scheme = scheme_of(statistics)
    factors, same_chip = _factors(known, device, prediction.unit, runtime, scheme)
    intervals = known.intervals["measured" if same_chip else "unmeasured"]
    if scheme not in intervals.get(runtime, {}):
        return prediction
    terms = costs.terms(kernels(statistics.shapes), boundary_elements(statistics.shapes), scheme, runtime)
    ms = math.exp(known.log_ms(terms, factors, runtime, scheme))
    interval = intervals[runtime][scheme]
    about = f"a model of NPUs learnt from {interval.models} measured models"
    about += f" ({MEASURED[device.name]} and others)" if same_chip else "; this NPU was never measured"
    return _with_interval(prediction, ms, interval.low * wider, interval.high * wider, about)


def _factors(
    known: Coefficients, device: Device, unit: Unit, runtime: str, scheme: costs.Scheme
) -> tuple[Factors, bool]:
    """The device's factors, and whether they are those of its own chip."""
    name = MEASURED.get(device.name, "")
    # A file of the user's own may change the figures under the old name.
    if name in known.devices and profile.load(device.name).units == device.units:
        return known.devices[name], True
    return known.device_like(unit, device), False


def _with_interval(
    prediction: LatencyPrediction, ms: float, low: float, high: float, about: str
) -> LatencyPrediction:
    layers = tuple(replace(layer, ms=layer.ms * ms / prediction.ms) for layer in prediction.layers)
    ends = (ms * math.exp(low), ms * math.exp(high))
    return replace(prediction, ms=ms, layers=layers, interval=ends, basis=about)
