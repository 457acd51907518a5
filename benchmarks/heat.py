"""Heat of phones that the thermal model has not seen: half an hour of load, leave one phone out of three.

    python benchmarks/heat.py --data ../shared/data [--write-docs] [--write-coefficients]

The data are phone-thermal/*.csv: a detector in int8, back to back for 30 minutes with ONNX Runtime on
four CPU threads, a row a minute, on three phones (DaedricKnight/megadetector-int8-ptq, MIT). The two
coefficients of `openglm.device.heat` are fitted on two phones; the third is predicted from its profile,
its latency while cool and its battery's temperature at the start, and nothing else.
"""

from __future__ import annotations

import argparse
import csv
import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tables
from openglm.device import heat, profile
from openglm.device.heat import Body

PHONES = {
    "dimensity-900": "dimensity-900",
    "exynos-2400e": "exynos-2400",  # the same chip, clocked a little lower
    "snapdragon-8-elite": "snapdragon-8-elite",
}
"""Each file's name, and the profile of its phone."""

COOL, LAST = 3, 10
"""Minutes: the fastest of the first three is the cool latency (a governor takes a while to wake); the last
ten are the steady state."""
SLOWER = 1.05
"""A phone throttles in the first minute whose median is so many times the fastest before it; from minute
to minute medians differ by 1 %."""
LATENCY_WITHIN, MINUTES_WITHIN = 0.15, 3.0

T_90 = {1: 6.314, 2: 2.920}
"""Student's t, 90 % two-sided, by degrees of freedom."""

COEFFICIENTS = Path(heat.__file__).with_name("thermal.toml")
SOURCE = (
    "fitted by benchmarks/heat.py to half an hour of load on three phones, "
    "DaedricKnight/megadetector-int8-ptq, commit 34570fd7 (MIT)"
)


@dataclass(frozen=True)
class Assumed:
    """What is not fitted, in degrees Celsius."""

    limit_c: float = 43.0
    """What a case may have where it is held for 10 minutes and longer (ISO 13732-1)."""
    room_c: float = 25.0
    """The data do not name it; a phone that starts colder stands in a room as cold as itself."""
    exponent: float = 3.0
    """Power goes with speed to this: the voltage rises with the frequency."""


OTHERS = tuple(
    Assumed(limit, room, exponent)
    for limit in (40.0, 43.0, 46.0, 50.0)
    for room in (20.0, 23.0, 25.0, 28.0)
    for exponent in (2.0, 2.5, 3.0)
)
"""How the result depends on them."""


@dataclass(frozen=True)
class Phone:
    """What was measured of a phone, in milliseconds, minutes and degrees Celsius."""

    name: str
    idle_w: float
    active_w: float
    start_c: float
    first_ms: float
    """The median of the first minute."""
    cool_ms: float
    steady_ms: float
    """The median over the last minutes of each minute's median."""
    cool_mean_ms: float
    steady_mean_ms: float
    """By frames counted: what one takes on average, slow ones among them."""
    minutes_ms: tuple[float, ...]
    """Each minute's median."""
    throttles_min: float
    hottest: str
    """The highest thermal status that Android told."""
    assumed: Assumed = Assumed()

    @property
    def slower(self) -> float:
        """How many times slower it is when steady."""
        return self.steady_ms / self.cool_ms

    @property
    def room_c(self) -> float:
        return min(self.start_c, self.assumed.room_c)

    def body(self, rise_k: float, capacity_j_k: float) -> Body:
        return Body(
            resistance_k_w=rise_k / (self.idle_w + self.active_w),
            capacity_j_k=capacity_j_k,
            idle_w=self.idle_w,
            start_c=self.start_c,
            room_c=self.room_c,
            limit_c=self.assumed.limit_c,
            exponent=self.assumed.exponent,
        )

    def rise_k(self, ratio: float) -> float:
        """The rise at full load that makes it so many times slower in the end; `Body.speed` inverted."""
        kept = self.idle_w + self.active_w / ratio**self.assumed.exponent
        return (self.assumed.limit_c - self.room_c) * (self.idle_w + self.active_w) / kept

    @property
    def kept(self) -> float:
        """The speed that it would keep in a room of `Assumed.room_c`: its profile's `sustained_fraction`."""
        rise = self.rise_k(self.slower)
        return replace(self.body(rise, 1.0), room_c=self.assumed.room_c).speed(self.active_w)

    def capacity_j_k(self, rise_k: float) -> float:
        """The heat capacity that makes it throttle when it did; `Body.throttles_after_s` inverted."""
        after = self.body(rise_k, 1.0).throttles_after_s(self.idle_w + self.active_w)
        if after is None:
            raise SystemExit(f"{self.name} would never throttle with a rise of {rise_k:.0f} K.")
        return self.throttles_min * 60 / after


@dataclass(frozen=True)
class Fitted:
    """The coefficients, and the factors within which nine phones of ten lie."""

    rise_k: float
    rise_factor: float
    capacity_j_k: float
    capacity_factor: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with phone-thermal/*.csv")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--write-coefficients", action="store_true", help="the fit on all three phones")
    given = parser.parse_args()
    phones = [read(given.data / "phone-thermal" / f"{name}.csv", PHONES[name]) for name in PHONES]
    text, reached = judged(phones)
    command = shlex.join(["python", "benchmarks/heat.py", *sys.argv[1:]])
    text = f"{text}\n\n```sh\n{command}\n```"
    print(text)
    if given.write_docs:
        tables.write("heat", text)
    if given.write_coefficients:
        COEFFICIENTS.write_text(toml(fit(phones)), encoding="utf-8")
        print(f"Written: {COEFFICIENTS}")
    return 0 if reached else 1


def read(path: Path, name: str) -> Phone:
    """One phone's half an hour."""
    device = profile.load(name)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    medians = [float(row["median_ms"]) for row in rows]
    frames = [int(row["frames"]) for row in rows]
    fastest = medians[0]
    throttles = math.nan
    for row, median in zip(rows, medians, strict=True):
        if median > SLOWER * fastest:
            throttles = int(row["minute"]) - 0.5
            break
        fastest = min(fastest, median)
    order = ("NONE", "LIGHT", "MODERATE", "SEVERE", "CRITICAL", "EMERGENCY", "SHUTDOWN")
    return Phone(
        name=path.stem,
        idle_w=device.idle_power_w,
        active_w=heat.design_w(device),
        start_c=float(rows[0]["battery_temp_c"]),
        first_ms=medians[0],
        cool_ms=min(medians[:COOL]),
        steady_ms=statistics.median(medians[-LAST:]),
        cool_mean_ms=60_000 / max(frames[:COOL]),
        steady_mean_ms=60_000 * LAST / sum(frames[-LAST:]),
        minutes_ms=tuple(medians),
        throttles_min=throttles,
        hottest=max((row["thermal"] for row in rows), key=order.index),
    )


def fit(phones: Sequence[Phone]) -> Fitted:
    """Both coefficients as geometric means over the phones."""
    rises = [phone.rise_k(phone.slower) for phone in phones]
    capacities = [phone.capacity_j_k(rise) for phone, rise in zip(phones, rises, strict=True)]
    return Fitted(*centre(rises), *centre(capacities))


def centre(values: Sequence[float]) -> tuple[float, float]:
    """The geometric mean, and the factor around it that holds nine of ten further values."""
    logs = [math.log(value) for value in values]
    spread = T_90[len(logs) - 1] * statistics.stdev(logs) * math.sqrt(1 + 1 / len(logs))
    return math.exp(statistics.fmean(logs)), math.exp(spread)


def predicted(phone: Phone, known: Fitted) -> tuple[float, float]:
    """How many times slower a phone gets, and after how many minutes it throttles."""
    body = phone.body(known.rise_k, known.capacity_j_k)
    after = body.throttles_after_s(phone.idle_w + phone.active_w)
    return 1 / body.speed(phone.active_w), math.inf if after is None else after / 60


def missed(phones: Sequence[Phone], *, one_resistance: bool = False) -> tuple[float, float]:
    """The worst errors where each phone is left out in turn: of the latency, and in minutes."""
    misses, late = [], []
    for phone in phones:
        others = [other for other in phones if other is not phone]
        known = fit(others)
        if one_resistance:
            own = phone.idle_w + phone.active_w
            rises = [other.rise_k(other.slower) / (other.idle_w + other.active_w) * own for other in others]
            known = replace(known, rise_k=mean_of(rises))
        slower, minutes = predicted(phone, known)
        misses.append(slower / phone.slower - 1)
        late.append(minutes - phone.throttles_min)
    return worst(misses), worst(late)


def robust(phones: Sequence[Phone]) -> str:
    """How the errors depend on what is assumed, in a sentence."""
    found = [missed([replace(phone, assumed=assumed) for phone in phones]) for assumed in OTHERS]
    latency = sum(abs(miss) <= LATENCY_WITHIN for miss, _ in found)
    minutes = sum(abs(late) <= MINUTES_WITHIN for _, late in found)
    miss, late = missed(phones, one_resistance=True)
    onset = "a phone is said never to throttle" if math.isinf(late) else f"{late:+.1f} minutes at worst"
    return (
        f"With limits of 40 to 50 °C, rooms of 20 to 28 °C and exponents of 2 to 3, the latency stays within "
        f"{LATENCY_WITHIN:.0%} in {latency} of {len(OTHERS)} cases and the time within {MINUTES_WITHIN:.0f} "
        f"minutes in {minutes}. With one resistance for all phones, instead of a cooling sized to the "
        f"processor: {miss:+.0%} at worst, and {onset}."
    )


def judged(phones: Sequence[Phone]) -> tuple[str, bool]:
    """The tables, and whether the targets are reached."""
    steady, onset, means, courses = [], [], [], []
    misses: list[float] = []
    late: list[float] = []
    for phone in phones:
        others = [other for other in phones if other is not phone]
        slower, minutes = predicted(phone, fit(others))
        ms = phone.cool_ms * slower
        misses.append(ms / phone.steady_ms - 1)
        late.append(minutes - phone.throttles_min)
        steady.append(
            [
                phone.name,
                f"{phone.cool_ms:.0f}",
                f"{phone.steady_ms:.0f}",
                f"{ms:.0f}",
                f"{misses[-1]:+.0%}",
                f"{phone.first_ms:.0f}",
                f"{phone.first_ms / phone.steady_ms - 1:+.0%}",
                f"{phone.cool_ms * mean_of([it.slower for it in others]) / phone.steady_ms - 1:+.0%}",
            ]
        )
        onset.append(
            [
                phone.name,
                phone.hottest,
                f"{phone.start_c:.0f}",
                f"{phone.idle_w + phone.active_w:.1f}",
                f"{phone.throttles_min:.1f}",
                f"{minutes:.1f}",
                f"{late[-1]:+.1f}",
                f"{mean_of([it.throttles_min for it in others]) - phone.throttles_min:+.1f}",
            ]
        )
        course = [ms if minute + 0.5 >= minutes else phone.cool_ms for minute in range(len(phone.minutes_ms))]
        courses.append(
            [
                phone.name,
                f"{off(course, phone.minutes_ms):.0%}",
                f"{off([phone.first_ms] * len(course), phone.minutes_ms):.0%}",
            ]
        )
        mean = phone.cool_mean_ms * slower
        means.append(
            [
                phone.name,
                f"{phone.steady_mean_ms:.0f}",
                f"{mean:.0f}",
                f"{mean / phone.steady_mean_ms - 1:+.0%}",
                f"{phone.cool_mean_ms / phone.steady_mean_ms - 1:+.0%}",
            ]
        )
    whole = fit(phones)
    good = [max(map(abs, misses)) <= LATENCY_WITHIN, max(map(abs, late)) <= MINUTES_WITHIN]
    lines = [
        verdict(good[0], f"steady-state latency within {LATENCY_WITHIN:.0%}", f"{worst(misses):+.0%}"),
        verdict(good[1], f"time to throttle within {MINUTES_WITHIN:.0f} minutes", f"{worst(late):+.1f}"),
    ]
    text = "\n\n".join(
        [
            "Latency in milliseconds when steady (the last ten of 30 minutes), each phone predicted from the "
            "other two; beside it, what the first minute says, and the mean of the other two's slowdown.",
            tables.markdown(
                [
                    "phone",
                    "cool",
                    "steady",
                    "predicted",
                    "error",
                    "first minute",
                    "its error",
                    "mean's error",
                ],
                steady,
                1,
            ),
            "Minutes to throttle, from the start's temperature and the power of the profile; beside it, the "
            "mean of the other two's minutes.",
            tables.markdown(
                [
                    "phone",
                    "status",
                    "start, °C",
                    "power, W",
                    "throttles",
                    "predicted",
                    "error",
                    "mean's error",
                ],
                onset,
                2,
            ),
            "The same on average, by frames counted in the last ten minutes: where a phone switches between "
            "two speeds, the mean lies between them and the median does not.",
            tables.markdown(["phone", "mean", "predicted", "error", "no throttling"], means, 1),
            "Over all thirty minutes: by how much each minute's median is missed on average.",
            tables.markdown(["phone", "predicted course", "first minute"], courses, 1),
            "\n".join(lines),
            robust(phones),
            f"Fitted on all three: a rise of {whole.rise_k:.0f} K at full load, within a factor of "
            f"{whole.rise_factor:.2f} for nine phones of ten; a capacity of {whole.capacity_j_k:.0f} J/K, "
            f"within {whole.capacity_factor:.2f}. In a room of {Assumed.room_c:.0f} °C they would keep "
            + ", ".join(f"{phone.kept:.2f} ({phone.name})" for phone in phones)
            + " of their speed. Nothing here was measured on this machine.",
        ]
    )
    return text, all(good)


def off(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """The mean of the errors' sizes, as shares of what was measured."""
    return statistics.fmean(abs(one / other - 1) for one, other in zip(predicted, measured, strict=True))


def mean_of(values: Sequence[float]) -> float:
    """The geometric mean."""
    return statistics.geometric_mean(values)


def worst(errors: Sequence[float]) -> float:
    return max(errors, key=abs)


def verdict(good: bool, what: str, found: str) -> str:
    return f"- {'PASS' if good else 'MISSED'}: {what}: at worst {found}"


def toml(fitted: Fitted) -> str:
    """The file that the package reads."""
    return (
        "# What openglm.device.heat knows of phones; its meaning stands there, field by field.\n"
        "# Written by: python benchmarks/heat.py --data DATA --write-coefficients\n"
        f"limit_c = {Assumed.limit_c}\nroom_c = {Assumed.room_c}\nexponent = {Assumed.exponent}\n"
        f"rise_k = {fitted.rise_k:.1f}\nrise_factor = {fitted.rise_factor:.3f}\n"
        f"capacity_j_k = {fitted.capacity_j_k:.1f}\ncapacity_factor = {fitted.capacity_factor:.3f}\n"
        f'source = "{SOURCE}"\n'
    )


if __name__ == "__main__":
    sys.exit(main())
