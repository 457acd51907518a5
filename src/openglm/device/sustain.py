"""Lasting load: can a rate be held for so long, how slow does it get, and what does the battery say."""

from __future__ import annotations

import math
import re
from typing import Self

from pydantic import BaseModel, ConfigDict

from openglm.device.energy import active_power_w, battery_hours
from openglm.device.heat import Body, body
from openglm.device.latency import LatencyPrediction
from openglm.device.profile import Device
from openglm.errors import InputError

SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
DEFAULT_S = 1800.0
"""Half an hour, what the thermal model was fitted on."""
POINTS = 60
"""Of the course over time."""


class Load(BaseModel):
    """Inferences for `duration_s` seconds: `per_s` a second, or back to back where that is None."""

    model_config = ConfigDict(frozen=True)

    duration_s: float = DEFAULT_S
    per_s: float | None = None

    @classmethod
    def parse(cls, duration: str = "", rate: str = "") -> Self:
        """From text: a duration as 30m, 90s or 1h30m, a rate as 10/s, 600/min or 2/h; each may be empty.

        Raises `InputError` for what is neither, and for a zero.
        """
        seconds = _duration(duration) if duration else DEFAULT_S
        return cls(duration_s=seconds, per_s=_rate(rate) if rate else None)


class Moment(BaseModel):
    """The device at one moment of a lasting load."""

    model_config = ConfigDict(frozen=True)

    s: float
    latency_ms: float
    case_c: float
    """Temperature of the case where it is warmest."""


class Sustained(BaseModel):
    """What becomes of a load. Every figure is predicted; a range is where nine phones of ten would lie."""

    model_config = ConfigDict(frozen=True)

    duration_s: float
    asked_per_s: float | None
    """None for back to back."""
    held: bool
    """Whether the asked rate is kept to the end; back to back, whether the device stays as fast as it was."""
    start_ms: float
    end_ms: float
    end_ms_range: tuple[float, float]
    throttles_after_s: float | None
    """None where it does not in that time."""
    throttles_after_s_range: tuple[float | None, float | None]
    most_per_s: float
    """The highest rate that would be held for that long."""
    most_per_s_range: tuple[float, float]
    power_w: float
    """The whole device's mean over the time."""
    battery_hours: float | None
    """How long a full battery would last at that power; none on mains."""
    course: list[Moment]


def sustain(latency: LatencyPrediction, device: Device, load: Load) -> Sustained:
    """The load of `load` on the device, of a model whose latency while cool is `latency`."""
    ms, active = max(latency.ms, 1e-6), active_power_w(latency)
    duty = min(load.per_s * ms / 1000, 1.0) if load.per_s else 1.0
    mean, best, worst = body(device), body(device, cooler=1, larger=1), body(device, cooler=-1, larger=-1)
    most, least_most, most_most = (_most(it, active, ms, load.duration_s) for it in (mean, worst, best))
    power = mean.idle_w + active * duty
    after = _within(mean.throttles_after_s(power), load.duration_s)
    speed = _end_speed(mean, active, duty, load.duration_s)
    ends = [ms / _end_speed(it, active, duty, load.duration_s) for it in (best, worst)]
    hot_w = mean.idle_w + active * speed ** (mean.exponent - 1) * min(duty, speed)
    cool_s = load.duration_s if after is None else after
    average = (power * cool_s + hot_w * (load.duration_s - cool_s)) / load.duration_s
    return Sustained(
        duration_s=load.duration_s,
        asked_per_s=load.per_s,
        held=load.per_s <= most * (1 + 1e-9) if load.per_s else after is None,
        start_ms=ms,
        end_ms=ms / speed,
        end_ms_range=(min(ends), max(ends)),
        throttles_after_s=after,
        throttles_after_s_range=(
            _within(worst.throttles_after_s(power), load.duration_s),
            _within(best.throttles_after_s(power), load.duration_s),
        ),
        most_per_s=most,
        most_per_s_range=(least_most, most_most),
        power_w=average,
        battery_hours=battery_hours(average, device),
        course=_course(mean, power, ms, speed, after, load.duration_s),
    )


def _within(seconds: float | None, duration: float) -> float | None:
    return seconds if seconds is not None and seconds < duration else None


def _end_speed(it: Body, active: float, duty: float, duration: float) -> float:
    after = _within(it.throttles_after_s(it.idle_w + active * duty), duration)
    return 1.0 if after is None else it.speed(active, duty)


def _most(it: Body, active: float, ms: float, duration: float) -> float:
    """The highest rate that is held: throttled for good, or not yet throttled at the end."""
    lasting = it.speed(active)
    just_cool = (it.power_for(duration) - it.idle_w) / active
    return 1000 / ms * min(max(lasting, just_cool), 1.0)


def _course(
    it: Body, power: float, ms: float, speed: float, after: float | None, duration: float
) -> list[Moment]:
    moments = []
    for index in range(POINTS + 1):
        s = duration * index / POINTS
        throttled = after is not None and s >= after
        case = it.limit_c if throttled else it.temperature_c(power, s)
        moments.append(Moment(s=s, latency_ms=ms / speed if throttled else ms, case_c=case))
    return moments


def _duration(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", text)
    whole = re.fullmatch(r"(?:\s*\d+(?:\.\d+)?\s*(?:h|min|m|s))+\s*", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts) if whole else 0.0
    if not 0 < seconds < math.inf:
        raise InputError(
            f"The duration '{text}' cannot be used.", "Give one above zero as 30m, 90s or 1h30m."
        )
    return seconds


def _rate(text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|m|h)\s*", text)
    rate = float(found[1]) / SECONDS[found[2]] if found else 0.0
    if not 0 < rate < math.inf:
        raise InputError(f"The rate '{text}' cannot be used.", "Give one above zero as 10/s, 600/min or 2/h.")
    return rate
