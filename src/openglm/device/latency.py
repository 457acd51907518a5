"""Latency by the roofline model: each operator is bound by arithmetic, by memory, or by its start.

time = max(operations / (peak * efficiency), bytes / bandwidth) + overhead, summed over operators,
after Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009.
The factors below are rough and the same for every device: no measurement of the device enters.
`phone/` says how far it is off, and knows better where measurements do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openglm.device.profile import Device, Precision, Unit
from openglm.model.analysis.statistics import Layer, Statistics

Bound = Literal["compute", "memory", "overhead"]

BANDWIDTH_SHARE = 0.6
"""Share of the peak bandwidth that a streaming kernel sustains; STREAM reaches 0.5 to 0.7 on phones."""

NARROW_REDUCTION = 32
NARROW_SHARE = 0.3
"""A depthwise convolution adds few products for each output (9 for 3x3), so loads and stores bound its
kernels: below `NARROW_REDUCTION` products an output it reaches this share of the usual efficiency."""

ELEMENTWISE_SHARE = 0.25
"""Share of the fp32 peak (all multiply-adds) that additions, exponentials and the like reach."""

UNPACKING_SHARE = 0.85
"""4-bit weights are unpacked to float before each product, which costs about this much of the speed."""

OVERHEAD_OPERATIONS = 100_000
"""Starting an operator (dispatch, allocation, waking threads) takes as long as this many operations at
one CPU core's fp32 peak: 9 us on a Cortex-A53, 1 to 2 us on a flagship's core."""

CALL_MS = {"cpu": 0.0, "gpu": 0.5, "npu": 0.5}
"""What one call costs on another processor: driver, copies there and back, synchronisation."""


@dataclass(frozen=True)
class LayerLatency:
    """One layer's predicted time."""

    layer: Layer
    ms: float
    bound: Bound
    """What takes most of its time."""


@dataclass(frozen=True)
class LatencyPrediction:
    """Predicted latency of one inference, with no other load, before the device is hot."""

    unit: Unit
    threads: int
    ms: float
    layers: tuple[LayerLatency, ...]
    shares: dict[Bound, float]
    """Share of the time in layers bound by each."""
    interval: tuple[float, float] | None = None
    """Milliseconds between which nine of ten models are; none where no measurement says."""
    basis: str = "an uncalibrated roofline; expect a factor of about two either way"
    """What the prediction and its interval rest on."""

    @property
    def bound(self) -> Bound:
        """What bounds the largest share of the time."""
        return max(self.shares, key=lambda bound: self.shares[bound])


def predict(statistics: Statistics, device: Device, unit: Unit, threads: int) -> LatencyPrediction | None:
    """The latency of a graph on one unit of a device; `threads` counts for a CPU only.

    None where the unit computes none of the precisions that a layer with multiply-accumulates needs
    (a float graph on a processor for integers).
    """
    threads = min(threads, unit.cores) if unit.kind == "cpu" else unit.cores
    if any(_peak(unit, _computes_in(layer), threads) == 0 for layer in statistics.layers if layer.macs):
        return None
    layers = tuple(_layer(layer, device, unit, threads) for layer in statistics.layers)
    total = sum(layer.ms for layer in layers)
    bounds: tuple[Bound, ...] = ("compute", "memory", "overhead")
    shares = {
        bound: sum(layer.ms for layer in layers if layer.bound == bound) / total if total else 0.0
        for bound in bounds
    }
    return LatencyPrediction(unit, threads, total + CALL_MS[unit.kind], layers, shares)


def _layer(layer: Layer, device: Device, unit: Unit, threads: int) -> LayerLatency:
    if not layer.runs:
        return LayerLatency(layer, 0.0, "overhead")
    products = 2 * layer.macs / (_rate(layer, unit, threads) * 1e9) if layer.macs else 0.0
    vector = ELEMENTWISE_SHARE * (unit.peak("fp32", threads) or max(unit.peak_gops.values()))
    compute = products + layer.other_ops / (vector * 1e9)
    moved = layer.read_bytes + layer.write_bytes
    memory = moved / (device.memory.bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE)
    overhead = OVERHEAD_OPERATIONS / (device.cpu.peak("fp32", 1) * 1e9)
    times: dict[Bound, float] = {"compute": compute, "memory": memory, "overhead": overhead}
    seconds = max(compute, memory) + overhead
    return LayerLatency(layer, 1000 * seconds, max(times, key=lambda bound: times[bound]))


def _rate(layer: Layer, unit: Unit, threads: int) -> float:
    """Giga-operations a second that the unit reaches on this layer's products."""
    rate = _peak(unit, _computes_in(layer), threads) * unit.efficiency
    outputs = 1
    for size in layer.shape or ():
        outputs *= size
    if "Conv" in layer.op_type and layer.shape is not None and layer.macs < NARROW_REDUCTION * outputs:
        rate *= NARROW_SHARE
    return rate * UNPACKING_SHARE if layer.precision == "int4w" else rate


def _peak(unit: Unit, precision: Precision, threads: int) -> float:
    """The unit's peak; NPUs run float models in fp16."""
    in_half = unit.peak("fp16", threads) if unit.kind == "npu" and precision == "fp32" else 0.0
    return unit.peak(precision, threads) or in_half


def _computes_in(layer: Layer) -> Precision:
    return "fp32" if layer.precision == "int4w" else layer.precision
