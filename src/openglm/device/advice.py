"""From limits that are not kept to what can be done about it, in one or two sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from openglm.device.budget import Budget
from openglm.device.footprint import ENGINE_BYTES, Footprint
from openglm.device.latency import LatencyPrediction, predict
from openglm.device.profile import Device
from openglm.model.analysis.statistics import Statistics

Action = Literal["deploy", "optimize", "infeasible"]

MAX_WEIGHT_SHRINK = 16
"""How far weights shrink with the task still done: 8 times by 4 bits for 32, and 2 times by pruning or a
smaller student; published results beyond it trade away much of the accuracy."""

MAX_SPEEDUP = 12
"""How far latency falls: about 3 times by int8 and 4 times by structured pruning, distillation or early
exits; TinyBERT, 9.4 times faster than BERT-base, is near the edge of what keeps the accuracy."""

MAX_ACTIVATION_SHRINK = 4
"""Activations shrink by int8 at most 4 times; their number follows the input, not the weights."""

INT8_BITS, INT4_BITS = 8.25, 4.75
"""Bits for each quantized weight, its share of the scales and the unquantized rest included."""


@dataclass(frozen=True)
class Predicted:
    """What was predicted for the model as it is."""

    statistics: Statistics
    latency: LatencyPrediction
    device: Device
    memory: Footprint
    energy_mj: float
    load_ms: float


def advise(predicted: Predicted, budget: Budget) -> tuple[Action, str]:
    """What to do with a model that misses limits of `budget`, and why, in plain words."""
    weights = _weights_share(predicted, budget)
    slowness = _slowness(predicted, budget)
    if weights is None and slowness <= 1:
        return "deploy", "It fits: deploy it as it is."
    fixed = _fixed_bytes(predicted) / 1e6
    if budget.memory_mb is not None and fixed > budget.memory_mb:
        return "infeasible", (
            f"Even with no weights, the engine and the activations (at most {MAX_ACTIVATION_SHRINK} times "
            f"smaller in int8) need {fixed:.0f} MB. Give it more memory or a smaller input."
        )
    parameters = max(predicted.statistics.parameters, 1)
    floor = parameters * 4 / MAX_WEIGHT_SHRINK / max(predicted.statistics.weight_bytes, 1)
    if weights is not None and weights < min(floor, 1):
        return "infeasible", (
            f"Its weights would have to shrink to {_percent(weights)} of what they are; 4-bit weights and "
            f"pruning together reach about {_percent(floor)}. No known technique gets there: take a smaller "
            "model."
        )
    if slowness > _speedup_left(predicted.statistics):
        return "infeasible", (
            f"It would have to be {slowness:.1f} times as fast; quantization, pruning and distillation "
            f"reach about {_speedup_left(predicted.statistics):.0f} times. No known technique gets there: "
            "take a smaller model, a smaller input or a faster device."
        )
    parts = []
    if weights is not None:
        parts.append(_about_weights(weights, predicted.statistics))
    if slowness > 1:
        parts.append(_about_latency(slowness, predicted))
    return "optimize", " ".join(parts)


def _weights_share(predicted: Predicted, budget: Budget) -> float | None:
    """The share of the weights' bytes that size, memory and load time leave room for; none where they fit."""
    now = max(predicted.statistics.weight_bytes, 1)
    shares = []
    if budget.size_mb is not None and predicted.statistics.file_bytes > budget.size_mb * 1e6:
        structure = predicted.statistics.file_bytes - predicted.statistics.weight_bytes
        shares.append((budget.size_mb * 1e6 - structure) / now)
    if budget.memory_mb is not None and predicted.memory.peak > budget.memory_mb * 1e6:
        rest = _fixed_bytes(predicted)
        scalable = max(predicted.memory.peak - rest, 1)
        shares.append((budget.memory_mb * 1e6 - rest) / scalable)
    if budget.load_ms is not None and predicted.load_ms > budget.load_ms:
        shares.append(budget.load_ms / predicted.load_ms)
    return max(min(shares), 0.0) if shares else None


def _fixed_bytes(predicted: Predicted) -> float:
    """Memory that stays however small the weights are."""
    return ENGINE_BYTES + predicted.memory.activations / MAX_ACTIVATION_SHRINK


def _slowness(predicted: Predicted, budget: Budget) -> float:
    """How many times too slow, or too hungry, the model is."""
    latency = predicted.latency.ms / budget.latency_ms if budget.latency_ms else 0.0
    energy = predicted.energy_mj / budget.energy_mj if budget.energy_mj else 0.0
    return max(latency, energy)


def _about_weights(share: float, statistics: Statistics) -> str:
    def reached(bits: float) -> float:
        return statistics.parameters * bits / 8 / max(statistics.weight_bytes, 1)

    if share >= reached(INT8_BITS):
        means = "int8 weights would do"
    elif share >= reached(INT4_BITS):
        means = "4-bit weights would do"
    else:
        means = "4-bit weights alone do not reach that, so pruning or a smaller student is needed as well"
    return f"The weights have to shrink to {_percent(share)} of what they are: {means}."


def _about_latency(slowness: float, predicted: Predicted) -> str:
    need = f"It has to be {slowness:.1f} times as fast"
    gain = int8_gain(predicted)
    kind = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}[predicted.latency.unit.kind]
    if gain < 1.05:
        return f"{need}: int8 gives no more here, so pruning, distillation or a smaller input is needed."
    how = f"{need}: int8 is predicted to give about {gain:.1f} times on this {kind}"
    return (
        f"{how}, which would do."
        if gain >= slowness
        else f"{how}, so pruning or a smaller model is needed as well."
    )


def int8_gain(predicted: Predicted) -> float:
    """How many times as fast the same graph would be with its float products in int8."""
    layers = tuple(
        replace(
            layer,
            precision="int8",
            read_bytes=layer.read_bytes - layer.weight_bytes + layer.weight_bytes // 4,
        )
        if layer.macs and layer.precision in ("fp32", "fp16")
        else layer
        for layer in predicted.statistics.layers
    )
    latency, statistics = predicted.latency, predicted.statistics
    before = predict(statistics, predicted.device, latency.unit, latency.threads)
    after = predict(replace(statistics, layers=layers), predicted.device, latency.unit, latency.threads)
    return before.ms / after.ms if before is not None and after is not None and after.ms > 0 else 1.0


def _speedup_left(statistics: Statistics) -> float:
    """What is left of `MAX_SPEEDUP`: a graph in int8 has had about 3 of it."""
    int8 = sum(layer.macs for layer in statistics.layers if layer.precision == "int8")
    return MAX_SPEEDUP / 3 if int8 > statistics.macs / 2 else MAX_SPEEDUP


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
