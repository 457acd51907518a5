"""Device profiles: every shipped one holds, and what is wrong with a user's is said."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from openglm.device import profile
from openglm.device.profile import Device, dumps, figures, load, names
from openglm.errors import InputError

SHIPPED = [name for name in names() if name != "host"]
REQUIRED = {
    "snapdragon-8-gen-3",
    "snapdragon-8-elite",
    "snapdragon-7-gen-4",
    "snapdragon-x-elite",
    "apple-a17-pro",
    "kirin-9000s",
    "dimensity-9300",
    "dimensity-900",
    "exynos-2400",
    "tensor-g3",
    "cortex-a53-2gb",
    "mid-range-a76",
    "raspberry-pi-5",
    "desktop-gpu",
    "host",
}


def valid() -> dict[str, Any]:
    return load("cortex-a53-2gb").model_dump(mode="json")


def npu_tops(device: Device) -> float:
    return max((unit.peak("int8") for unit in device.units if unit.kind == "npu"), default=0.0) / 1000


def test_the_required_devices_are_there() -> None:
    assert set(names()) >= REQUIRED
    assert names() == sorted(names())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_loads_under_its_file_name_and_sources_every_figure(name: str) -> None:
    device = load(name)
    assert device.name == name
    assert set(device.sources) == figures(device)


@pytest.mark.parametrize("name", SHIPPED)
def test_sources_say_where_a_figure_is_from_and_point_nowhere_unsafe(name: str) -> None:
    for path, source in load(name).sources.items():
        assert len(source) > 20, f"{path}: {source}"
        assert "http://" not in source, f"{path}: {source}"


@pytest.mark.parametrize("name", SHIPPED)
def test_figures_agree_with_each_other(name: str) -> None:
    device = load(name)
    for unit in device.units:
        peaks = [unit.peak_gops[p] for p in ("fp32", "fp16", "int8", "int4") if p in unit.peak_gops]
        assert peaks == sorted(peaks), f"{unit.name}: a narrower precision is never slower"
        assert unit.peak_gops.get("int8", 0) <= 12 * unit.peak_gops.get("fp32", float("inf"))
    kinds = [unit.kind for unit in device.units]
    assert len(kinds) == len(set(kinds))
    assert 0.2 <= device.memory.app_share < 1
    assert 0.25 <= device.cpu.efficiency <= 0.8
    assert device.app_memory_mb < device.memory.ram_gb * 1000
    # Reading a byte from memory is faster than from storage, on every device.
    assert device.memory.bandwidth_gb_s * 1000 > device.storage_read_mb_s
    if device.battery_wh is not None:
        assert 10 <= device.battery_wh <= (60 if device.tier == "laptop" else 30)
        hours = device.battery_wh / (device.idle_power_w + device.cpu.power_w)
        assert 0.5 <= hours <= 12


@pytest.mark.parametrize("name", SHIPPED)
def test_tiers_are_in_order(name: str) -> None:
    device = load(name)
    if device.tier == "flagship":
        assert device.memory.ram_gb >= 8
        assert device.cpu.peak("fp32") > 100
    if device.tier == "low":
        assert device.memory.ram_gb <= 2
        assert device.cpu.peak("int8") < 100
    if device.tier in ("board", "desktop"):
        assert device.battery_wh is None
    else:
        assert device.battery_wh is not None
    if device.tier == "desktop":
        assert 16 <= device.memory.ram_gb <= 48
        assert 100e3 <= max(unit.peak("int8") for unit in device.units) <= 500e3


def test_what_is_said_of_single_devices() -> None:
    assert npu_tops(load("snapdragon-8-gen-3")) == 45
    # A 7B model in 4 bits, with its scales and a short cache, is about 4.5 GB.
    assert load("snapdragon-8-gen-3").app_memory_mb > 4500
    assert npu_tops(load("apple-a17-pro")) == 35
    assert npu_tops(load("snapdragon-x-elite")) == 45
    low = load("cortex-a53-2gb")
    assert (low.memory.ram_gb, low.cpu.cores) == (2, 4)
    assert low.cpu.peak("fp32") == pytest.approx(4 * 1.4 * 8)
    assert "fp16" not in low.cpu.peak_gops
    assert npu_tops(load("snapdragon-7-gen-4")) < 45 < npu_tops(load("snapdragon-8-elite"))


def test_peak_falls_back_to_the_next_wider_precision_and_scales_with_threads() -> None:
    cpu = load("cortex-a53-2gb").cpu
    assert cpu.peak("int4") == cpu.peak_gops["int8"]
    assert cpu.peak("fp16") == cpu.peak_gops["fp32"]
    assert cpu.peak("fp32", threads=1) == pytest.approx(cpu.peak("fp32") / 4)
    assert cpu.peak("fp32", threads=64) == cpu.peak("fp32")
    npu = next(unit for unit in load("exynos-2400").units if unit.kind == "npu")
    assert npu.peak("fp32") == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_profile_survives_being_written_as_toml(name: str, tmp_path: Path) -> None:
    device = load(name)
    file = tmp_path / "mine.toml"
    file.write_text(dumps(device), encoding="utf-8")
    assert load(file) == device
    assert load(str(file)) == device


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_source_survives_being_written_as_toml(source: str) -> None:
    data = valid()
    data["sources"]["memory.ram_gb"] = source
    try:
        source.encode()
    except UnicodeEncodeError:
        return  # lone surrogates have no UTF-8
    device = Device.model_validate(data)
    assert Device.model_validate(tomllib.loads(dumps(device))) == device


def test_a_loaded_device_is_taken_as_it_is() -> None:
    device = load("raspberry-pi-5")
    assert load(device) is device


def test_every_figure_needs_a_source() -> None:
    for path in figures(load("cortex-a53-2gb")):
        data = valid()
        del data["sources"][path]
        with pytest.raises(ValidationError, match=f"no source given for {path}"):
            Device.model_validate(data)


def test_a_blank_source_is_none() -> None:
    data = valid() | {"sources": valid()["sources"] | {"memory.ram_gb": "  "}}
    with pytest.raises(ValidationError, match=r"no source given for memory\.ram_gb"):
        Device.model_validate(data)


def test_a_source_for_nothing_is_refused() -> None:
    data = valid() | {"sources": valid()["sources"] | {"memory.ram": "somewhere"}}
    with pytest.raises(ValidationError, match=r"no figure of this profile: memory\.ram"):
        Device.model_validate(data)


def test_units_need_a_cpu_and_names_of_their_own() -> None:
    data = valid()
    data["units"][0]["kind"] = "gpu"
    with pytest.raises(ValidationError, match="kind 'cpu'"):
        Device.model_validate(data)
    data = valid()
    data["units"] *= 2
    with pytest.raises(ValidationError, match="two units have one name"):
        Device.model_validate(data)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(InputError) as error:
        load("snapdragon-8gen3")
    assert "'snapdragon-8gen3'" in error.value.problem
    assert "snapdragon-8-gen-3" in error.value.advice


TEXT = (resources.files("openglm.device") / "profiles" / "cortex-a53-2gb.toml").read_text(encoding="utf-8")

BROKEN = {
    "cut off in a line": (TEXT[: TEXT.index("ram_gb") + 8], "not valid TOML"),
    "cut off between lines": (TEXT[: TEXT.index("[sources]")], "sources: Field required"),
    "empty": ("", "name: Field required"),
    "a word for a number": (TEXT.replace("ram_gb = 2.0", 'ram_gb = "2"'), "memory.ram_gb"),
    "true for a number": (TEXT.replace("cores = 4", "cores = true"), "units.0.cores"),
    "zero": (TEXT.replace("ram_gb = 2.0", "ram_gb = 0"), "memory.ram_gb"),
    "negative": (TEXT.replace("bandwidth_gb_s = 5.3", "bandwidth_gb_s = -5.3"), "memory.bandwidth_gb_s"),
    "infinite": (TEXT.replace("ram_gb = 2.0", "ram_gb = inf"), "memory.ram_gb"),
    "not a number": (TEXT.replace("ram_gb = 2.0", "ram_gb = nan"), "memory.ram_gb"),
    "a share above one": (TEXT.replace("app_share = 0.3", "app_share = 1.3"), "memory.app_share"),
    "a zero peak": (TEXT.replace("fp32 = 44.8", "fp32 = 0"), "peak_gops above zero"),
    "no peak": (TEXT.replace("{ fp32 = 44.8, int8 = 59.7 }", "{}"), "peak_gops above zero"),
    "an unknown precision": (TEXT.replace("fp32 = 44.8", "fp64 = 44.8"), "peak_gops"),
    "an unknown field": (TEXT.replace("[memory]", "[memory]\nddr = 4"), "memory.ddr"),
    "an unknown tier": (TEXT.replace('tier = "low"', 'tier = "cheap"'), "tier"),
    "a name with a blank": (TEXT.replace('name = "cortex-a53-2gb"', 'name = "my phone"'), "name"),
    "a key given twice": (TEXT.replace("ram_gb = 2.0", "ram_gb = 2.0\nram_gb = 3.0"), "not valid TOML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_what_is_wrong(case: str, tmp_path: Path) -> None:
    text, hint = BROKEN[case]
    assert text != TEXT
    file = tmp_path / "broken.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load(file)
    assert "broken.toml" in error.value.problem
    assert hint in error.value.problem
    assert error.value.exit_code == 2


def test_a_file_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no device file .*absent\.toml"):
        load(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"binary\.toml cannot be read"):
        load(binary)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.toml"):
        load(folder)


def test_host_is_measured_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from openglm.device import host

    asked: list[bool] = []
    stand_in = load("raspberry-pi-5")

    def measure() -> Device:
        asked.append(True)
        return stand_in

    monkeypatch.setattr(host, "measure", measure)
    assert "host" in profile.names()
    assert asked == []
    assert load("host") is stand_in
    assert asked == [True]
