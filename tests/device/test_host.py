"""The measured host: what it says, and that its cache can be anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from openglm.device import host
from openglm.device.profile import Device, figures, load


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces the measurement by one that takes no time; holds the folder of each call."""
    calls: list[Path] = []

    def stand_in(folder: Path) -> Device:
        calls.append(folder)
        device = load("raspberry-pi-5")
        return device.model_copy(update={"name": "host", "tier": "host", "year": 2000 + len(calls)})

    monkeypatch.setattr(host, "_measure", stand_in)
    return calls


def test_measurement_is_a_whole_profile(tmp_path: Path) -> None:
    device = host.measure(cache=tmp_path / "host.json")
    assert (device.name, device.tier, device.battery_wh) == ("host", "host", None)
    assert set(device.sources) == figures(device)
    assert all(source.startswith(("measured: ", "assumed: ")) for source in device.sources.values())
    assert device.cpu.cores == host.usable_cores()
    assert device.cpu.peak("int8") >= device.cpu.peak("fp32") / 2
    assert device.memory.ram_gb * 1e9 == pytest.approx(host.ram_bytes(), rel=0.01)
    assert "fp16" not in device.cpu.peak_gops
    assert [path.name for path in tmp_path.iterdir()] == ["host.json"]


def test_second_time_comes_from_the_cache(tmp_path: Path, quick: list[Path]) -> None:
    cache = tmp_path / "new" / "host.json"
    first = host.measure(cache=cache)
    assert host.measure(cache=cache) == first
    assert len(quick) == 1
    assert host.measure(refresh=True, cache=cache) != first
    assert len(quick) == 2
    assert host.measure(cache=cache).year == 2002


def test_default_cache_is_the_users(
    tmp_path: Path, quick: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    host.measure()
    assert (tmp_path / "openglm" / "host.json").is_file()
    assert quick == [tmp_path / "openglm"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"ram_gb": 8.0', '"ram_gb": -8.0'),
        lambda text: text.replace('"sources"', '"sorces"'),
        lambda text: text.replace('"device"', '"machine"'),
        lambda text: '{"key": 1, "device": "none"}',
    ],
)
def test_a_damaged_cache_is_measured_anew_and_mended(
    damage: object, tmp_path: Path, quick: list[Path]
) -> None:
    cache = tmp_path / "host.json"
    host.measure(cache=cache)
    text = cache.read_text(encoding="utf-8")
    broken = damage(text)  # type: ignore[operator]
    assert broken != text
    cache.write_text(broken, encoding="utf-8")
    assert host.measure(cache=cache).year == 2002
    assert host.measure(cache=cache).year == 2002
    assert len(quick) == 2


def test_a_cache_of_bytes_is_measured_anew(tmp_path: Path, quick: list[Path]) -> None:
    cache = tmp_path / "host.json"
    cache.write_bytes(b"\xff\x00\xfe")
    assert host.measure(cache=cache).name == "host"


@pytest.mark.parametrize("fact", ["processor", "cores", "ram_bytes", "numpy", "onnxruntime", "format"])
def test_cache_of_another_machine_or_version_is_not_used(
    fact: str, tmp_path: Path, quick: list[Path]
) -> None:
    cache = tmp_path / "host.json"
    host.measure(cache=cache)
    kept = json.loads(cache.read_text(encoding="utf-8"))
    kept["key"][fact] = "other"
    cache.write_text(json.dumps(kept), encoding="utf-8")
    host.measure(cache=cache)
    assert len(quick) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, quick: list[Path]) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert host.measure(cache=tmp_path / "file" / "host.json").name == "host"
    (tmp_path / "host.json").mkdir()  # a folder where the file belongs
    assert host.measure(cache=tmp_path / "host.json").name == "host"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "host.json"]


def test_storage_falls_back_where_nothing_can_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    speed, source = host._storage(blocked / "cache")
    assert speed > 0
    assert source.startswith("assumed: ")


def test_without_an_int8_kernel_the_profile_has_no_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_onnx_gops", lambda shape, precision, threads: None)
    monkeypatch.setattr(host, "_numpy_gops", lambda: 100.0)
    device = host._measure(tmp_path)
    assert device.cpu.peak_gops == {"fp32": 100.0}
    assert device.sources["units.cpu.efficiency"].startswith("assumed: ")


def test_affinity_quota_and_memory_limit_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    real = host._first_line
    files: dict[str, str] = {}
    monkeypatch.setattr(host, "_first_line", lambda path: files.get(path, ""))
    machine = host.usable_cores()
    if hasattr(os, "sched_getaffinity"):
        assert machine == len(os.sched_getaffinity(0))
    files["/sys/fs/cgroup/cpu.max"] = "150000 100000"
    assert host.usable_cores() == 1
    files["/sys/fs/cgroup/cpu.max"] = "50000 100000"
    assert host.usable_cores() == 1
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert host.usable_cores() == machine
    files["/sys/fs/cgroup/memory.max"] = "max"
    whole = host.ram_bytes()
    files["/sys/fs/cgroup/memory.max"] = str(whole // 2)
    assert host.ram_bytes() == whole // 2
    files["/sys/fs/cgroup/memory.max"] = ""
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712"  # "no limit" in version 1
    assert host.ram_bytes() == whole
    assert real("/no/such/file") == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_pinned_to_one_core_it_counts_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
