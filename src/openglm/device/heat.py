"""Heat: when a device throttles under load, how slow it gets, and what rate it can hold.

A device is one lumped body (Incropera and DeWitt, "Fundamentals of Heat and Mass Transfer", chapter 5):
its capacity takes up the heat, its resistance sheds it to the room, and its governor slows the processor
down so that the body stays at a limit. Dynamic power goes with frequency times voltage squared, and
voltage about with frequency, so speed goes with the cube root of power (Chandrakasan, Sheng and Brodersen,
"Low-power CMOS digital design", 1992).

Cooling is taken as sized to the processor: at full CPU load every phone would end up about equally far
above the room, were it let. That rise, and the capacity, are fitted (`thermal.toml`).
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

from openglm.device.energy import active_power_w
from openglm.device.latency import LatencyPrediction
from openglm.device.profile import Device

DESIGN_THREADS = 4
"""CPU threads of the load that the rise was fitted on."""

LOWEST_SPEED = 0.2
"""A governor goes no lower; phones' lowest clocks are about a fifth of their highest."""

PHONES = ("flagship", "mid", "low")
"""Tiers that are cooled by their case alone; others are taken to keep up where their profile says nothing."""


class Rate(BaseModel):
    """Inferences a second, one after another."""

    model_config = ConfigDict(frozen=True)

    burst_per_s: float
    """In the first minute, cool."""
    sustained_per_s: float
    """After long load, throttled."""


@dataclass(frozen=True)
class Coefficients:
    """What `thermal.toml` holds; temperatures in degrees Celsius."""

    limit_c: float
    """Of the case, where a governor steps in."""
    room_c: float
    exponent: float
    """Power goes with speed to this."""
    rise_k: float
    """Above the room at full load for ever, were the device let; of a phone whose own is not known."""
    rise_factor: float
    """The rise of 9 phones of 10 lies within this factor."""
    capacity_j_k: float
    capacity_factor: float
    source: str


@cache
def coefficients() -> Coefficients:
    """The fitted coefficients; `benchmarks/heat.py --write-coefficients` fits them anew."""
    text = (resources.files("openglm.device") / "thermal.toml").read_text(encoding="utf-8")
    return Coefficients(**tomllib.loads(text))


@dataclass(frozen=True)
class Body:
    """A device as one lump of heat. Power in watts, of the whole device; times in seconds."""

    resistance_k_w: float
    capacity_j_k: float
    idle_w: float
    start_c: float
    room_c: float
    limit_c: float
    exponent: float

    @property
    def sustainable_w(self) -> float:
        """The power that keeps the body at its limit."""
        return (self.limit_c - self.room_c) / self.resistance_k_w

    @property
    def time_constant_s(self) -> float:
        return self.resistance_k_w * self.capacity_j_k

    def throttles_after_s(self, power_w: float) -> float | None:
        """When the limit is reached at a mean power; None for never."""
        end = self.room_c + self.resistance_k_w * power_w
        if self.start_c >= self.limit_c:
            return 0.0
        if end <= self.limit_c * (1 + 1e-9):
            return None
        left = (end - self.limit_c) / (end - self.start_c)
        return -self.time_constant_s * math.log(left)

    def temperature_c(self, power_w: float, seconds: float) -> float:
        """The body's temperature after so long at a mean power, not throttled."""
        end = self.room_c + self.resistance_k_w * power_w
        return end + (self.start_c - end) * math.exp(-seconds / self.time_constant_s)

    def power_for(self, seconds: float) -> float:
        """The mean power with which the limit is reached after just so long."""
        risen = -math.expm1(-seconds / self.time_constant_s)
        end = self.start_c + max(self.limit_c - self.start_c, 0.0) / risen
        return (end - self.room_c) / self.resistance_k_w

    def speed(self, active_w: float, duty: float = 1.0) -> float:
        """The speed the governor ends up at, of the cool one, where power above idle is `active_w`.

        `duty` is the share of the time that the work would take at full speed; the same work at speed s
        takes 1/s of the time, so its mean power goes with s to `exponent` - 1, until nothing is left idle.
        """
        spare = max(self.sustainable_w - self.idle_w, 0.0)
        if spare >= active_w * duty * (1 - 1e-9):
            return 1.0
        all_the_time = (spare / active_w) ** (1 / self.exponent)
        needed = (spare / (active_w * duty)) ** (1 / (self.exponent - 1)) if duty < 1 else 0.0
        return float(max(all_the_time, needed, LOWEST_SPEED))


def body(device: Device, *, cooler: float = 0.0, larger: float = 0.0) -> Body:
    """The device in a room of `room_c`, warm from being idle.

    `cooler` and `larger` move the resistance and the capacity within what is known of them: 1 is the
    end of the interval where it is the better cooled, or the larger; -1 the other end.
    """
    known = coefficients()
    design = device.idle_power_w + design_w(device)
    kept = device.thermal.sustained_fraction
    if device.tier not in PHONES:
        kept, cooler = kept or 1.0, 0.0  # a fan's cooling is not what the interval is of
    if kept is None:
        resistance = known.rise_k / design
    else:
        keeps = device.idle_power_w + design_w(device) * kept**known.exponent
        resistance = (known.limit_c - known.room_c) / keeps
    resistance /= known.rise_factor**cooler
    return Body(
        resistance_k_w=resistance,
        capacity_j_k=known.capacity_j_k * known.capacity_factor**larger,
        idle_w=device.idle_power_w,
        start_c=known.room_c + resistance * device.idle_power_w,
        room_c=known.room_c,
        limit_c=known.limit_c,
        exponent=known.exponent,
    )


def design_w(device: Device) -> float:
    """Watts above idle that the cooling was made for: the CPU on its threads of the fit. What is not a
    phone has a cooler for each of its processors, so there it is the most that one of them draws."""
    if device.tier in PHONES:
        return device.cpu.power_w * min(DESIGN_THREADS, device.cpu.cores) / device.cpu.cores
    return max(unit.power_w for unit in device.units)


def rate(latency: LatencyPrediction, device: Device) -> Rate:
    """The rates at which `device` can run a model back to back."""
    burst = 1000 / max(latency.ms, 1e-6)
    return Rate(burst_per_s=burst, sustained_per_s=burst * body(device).speed(active_power_w(latency)))
