"""Energy of one inference: the power of the unit that runs it, above idle, times the time it takes."""

from __future__ import annotations

from openglm.device.latency import LatencyPrediction
from openglm.device.profile import Device


def active_power_w(latency: LatencyPrediction) -> float:
    """Watts above idle while the model runs; a CPU's power is taken as proportional to its busy cores."""
    return latency.unit.power_w * min(latency.threads, latency.unit.cores) / latency.unit.cores


def energy_mj(latency: LatencyPrediction) -> float:
    """Millijoules of one inference above what the idle device draws."""
    return active_power_w(latency) * latency.ms


def inferences_per_charge(latency: LatencyPrediction, device: Device) -> int | None:
    """Inferences that a full battery would last for if nothing else drew on it; none on mains."""
    if device.battery_wh is None:
        return None
    joules = (active_power_w(latency) + device.idle_power_w) * latency.ms / 1000
    return int(device.battery_wh * 3600 / joules)


def battery_hours(power_w: float, device: Device) -> float | None:
    """Hours that a full battery lasts at a mean power of the whole device; none on mains."""
    if device.battery_wh is None or power_w <= 0:
        return None
    return device.battery_wh / power_w
