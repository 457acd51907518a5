"""Heat: how often a second a device can run a model at first, and for as long as it likes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from openglm.device.profile import Device


class Rate(BaseModel):
    """Inferences a second, one after another."""

    model_config = ConfigDict(frozen=True)

    burst_per_s: float
    """In the first minute, cool."""
    sustained_per_s: float
    """After long load, throttled."""


def rate(latency_ms: float, device: Device) -> Rate:
    """The rates at which `device` can run a model of that latency back to back."""
    burst = 1000 / latency_ms
    return Rate(burst_per_s=burst, sustained_per_s=burst * device.thermal.sustained_fraction)
