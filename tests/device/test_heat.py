"""The thermal body against its differential equation, and what lasting loads come to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglm.device import profile
from openglm.device.energy import active_power_w, battery_hours
from openglm.device.heat import LOWEST_SPEED, Body, body, coefficients, rate
from openglm.device.latency import LatencyPrediction
from openglm.device.profile import Device, Thermal
from openglm.device.sustain import Load, sustain
from openglm.errors import InputError

PHONE = Body(
    resistance_k_w=4.0,
    capacity_j_k=50.0,
    idle_w=1.0,
    start_c=29.0,
    room_c=25.0,
    limit_c=43.0,
    exponent=3.0,
)


def latency(device: Device, ms: float, kind: str = "cpu") -> LatencyPrediction:
    unit = next(unit for unit in device.units if unit.kind == kind)
    return LatencyPrediction(unit, min(4, unit.cores), ms, (), {"compute": 1.0})


def simulated(it: Body, active: float, duty: float, seconds: float) -> tuple[float | None, float]:
    """Forward Euler with a governor that slows down while the body is too hot: onset and last speed."""
    case, speed, onset, step = it.start_c, 1.0, None, 0.05
    for index in range(int(seconds / step)):
        if case >= it.limit_c:
            onset = index * step if onset is None else onset
            speed = max(speed * 0.999, LOWEST_SPEED)
        elif onset is not None:
            speed = min(speed * 1.001, 1.0)
        power = it.idle_w + active * speed**it.exponent * min(duty / speed, 1.0)
        case += step * (power - (case - it.room_c) / it.resistance_k_w) / it.capacity_j_k
    return onset, speed


@pytest.mark.parametrize(("active", "duty"), [(7.0, 1.0), (7.0, 0.7), (9.0, 0.5), (4.0, 1.0)])
def test_closed_forms_are_what_a_governor_ends_at(active: float, duty: float) -> None:
    onset, speed = simulated(PHONE, active, duty, 3000)
    assert PHONE.throttles_after_s(PHONE.idle_w + active * duty) == pytest.approx(onset, rel=0.01)
    assert PHONE.speed(active, duty) == pytest.approx(speed, rel=0.02)


def test_what_the_case_sheds_never_throttles() -> None:
    assert PHONE.sustainable_w == pytest.approx(4.5)
    assert PHONE.throttles_after_s(4.5) is None
    assert PHONE.speed(3.5) == 1
    assert PHONE.speed(7.0, duty=0.5) == 1
    assert replace(PHONE, start_c=50.0).throttles_after_s(9.0) == 0


@given(st.floats(5, 30), st.floats(10, 3600))
def test_times_powers_and_temperatures_agree(power: float, seconds: float) -> None:
    after = PHONE.throttles_after_s(power)
    assert after is not None
    assert PHONE.temperature_c(power, after) == pytest.approx(PHONE.limit_c)
    assert PHONE.temperature_c(PHONE.power_for(seconds), seconds) == pytest.approx(PHONE.limit_c)


@given(st.floats(0.5, 30), st.floats(0.05, 1.0))
def test_more_load_is_never_faster(active: float, duty: float) -> None:
    speed = PHONE.speed(active, duty)
    assert LOWEST_SPEED <= speed <= 1
    assert PHONE.speed(active, 1.0) <= speed <= PHONE.speed(active, duty / 2)


@pytest.mark.parametrize("name", [name for name in profile.names() if name != "host"])
def test_a_profile_keeps_the_speed_that_it_says(name: str) -> None:
    device = profile.load(name)
    found = rate(latency(device, 100.0), device)
    assert found.burst_per_s == 10
    kept = device.thermal.sustained_fraction
    if kept is not None:
        assert found.sustained_per_s == pytest.approx(10 * kept)
    else:
        known, active = coefficients(), active_power_w(latency(device, 1.0))
        sheds = (known.limit_c - known.room_c) / known.rise_k * (device.idle_power_w + active)
        assert found.sustained_per_s == pytest.approx(
            10 * ((sheds - device.idle_power_w) / active) ** (1 / 3)
        )


def test_what_is_cooled_for_lasting_load_never_throttles() -> None:
    desk = profile.load("desktop-gpu")
    for kind in ("cpu", "gpu"):
        found = sustain(latency(desk, 5.0, kind), desk, Load(duration_s=1e6))
        assert (found.throttles_after_s, found.held, found.end_ms) == (None, True, 5)
        assert found.throttles_after_s_range == (None, None)
        assert found.end_ms_range == (5, 5)
        assert found.battery_hours is None


def test_what_is_no_phone_keeps_up_where_its_profile_says_nothing() -> None:
    board = profile.load("raspberry-pi-5").model_copy(update={"thermal": Thermal()})
    assert sustain(latency(board, 5.0), board, Load()).throttles_after_s is None


def test_the_highest_rate_is_held_and_a_higher_one_is_not() -> None:
    phone = profile.load("snapdragon-8-gen-3")
    for seconds in (60.0, 120.0, 1800.0):
        most = sustain(latency(phone, 50.0), phone, Load(duration_s=seconds)).most_per_s
        assert sustain(latency(phone, 50.0), phone, Load(duration_s=seconds, per_s=most)).held
        assert not sustain(latency(phone, 50.0), phone, Load(duration_s=seconds, per_s=1.01 * most)).held


def test_back_to_back() -> None:
    phone = profile.load("snapdragon-8-gen-3")
    found = sustain(latency(phone, 50.0), phone, Load())
    assert found.asked_per_s is None
    assert not found.held
    assert found.start_ms == 50 < found.end_ms
    early, late = found.throttles_after_s_range
    assert found.throttles_after_s is not None
    assert early is not None
    assert early < found.throttles_after_s < (late or math.inf)
    assert found.end_ms_range[0] <= found.end_ms <= found.end_ms_range[1]
    assert found.most_per_s_range[0] <= found.most_per_s <= found.most_per_s_range[1]
    assert found.course[0].latency_ms == 50
    assert found.course[-1].case_c == coefficients().limit_c
    # Hot it draws what the case sheds; before, more.
    assert body(phone).sustainable_w < found.power_w < 1 + 10 * 4 / 6
    assert found.battery_hours == pytest.approx(17.75 / found.power_w)


def test_a_low_rate_costs_little_more_than_idling() -> None:
    phone = profile.load("snapdragon-8-gen-3")
    found = sustain(latency(phone, 50.0), phone, Load(per_s=0.1))
    assert found.power_w == pytest.approx(1 + 0.1 * 0.05 * 10 * 4 / 6)
    assert found.held
    assert found.throttles_after_s is None


def test_a_phone_that_draws_nothing_idle() -> None:
    phone = profile.load("cortex-a53-2gb").model_copy(update={"idle_power_w": 0.0, "thermal": Thermal()})
    assert 0 < sustain(latency(phone, 10.0), phone, Load()).most_per_s <= 100
    assert battery_hours(0.0, phone) is None


@pytest.mark.parametrize(
    ("duration", "rate_", "seconds", "per_s"),
    [
        ("30m", "10/s", 1800, 10),
        ("1h30m", "", 5400, None),
        ("90s", "600/min", 90, 10),
        ("", "2/h", 1800, 1 / 1800),
    ],
)
def test_loads_as_text(duration: str, rate_: str, seconds: float, per_s: float | None) -> None:
    load = Load.parse(duration, rate_)
    assert load.duration_s == seconds
    assert load.per_s == (None if per_s is None else pytest.approx(per_s))


@pytest.mark.parametrize("text", ["half an hour", "30", "-30m", "0m", "30m/s", "30 x", "1e3m"])
def test_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="duration"):
        Load.parse(text)


@pytest.mark.parametrize("text", ["10", "0/s", "-1/s", "10/d", "often", "inf/s", "nan/s"])
def test_no_rate(text: str) -> None:
    with pytest.raises(InputError, match="rate"):
        Load.parse("30m", text)
