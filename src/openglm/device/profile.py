"""Devices: what a phone can do, as a data file with a source for every figure.

A profile is one TOML file in `profiles/`; a user's own file works wherever a name does.
`host` is no file: `device/host.py` measures this machine.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openglm.errors import InputError, nearest

Precision = Literal["fp32", "fp16", "int8", "int4"]
UnitKind = Literal["cpu", "gpu", "npu"]

# Strict, because TOML has types: `ram_gb = "8"` and `cores = true` are slips to report, not to mend.
# No infinity, which TOML can spell and every prediction would divide by.
CONFIG = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
NAME = r"^[a-z0-9]+(-[a-z0-9]+)*$"


class Unit(BaseModel):
    """A processor of the device that can run a model."""

    model_config = CONFIG

    name: str = Field(pattern=NAME, description="part of the path that its figures' sources go by")
    kind: UnitKind
    cores: int = Field(gt=0, description="cores that inference uses (big cores of a CPU), 1 for GPU and NPU")
    peak_gops: dict[Precision, float] = Field(
        description="peak giga-operations a second with all `cores`, a multiply-add counted as two"
    )
    efficiency: float = Field(
        gt=0, le=1, description="share of the peak that well-written kernels reach on large layers"
    )
    power_w: float = Field(gt=0, description="power drawn by the whole device above idle at full load")

    @model_validator(mode="after")
    def _peaks(self) -> Unit:
        if not self.peak_gops or any(peak <= 0 for peak in self.peak_gops.values()):
            raise ValueError(f"unit '{self.name}' needs peak_gops above zero for at least one precision")
        return self

    def peak(self, precision: Precision, threads: int | None = None) -> float:
        """Peak in giga-operations a second at `precision` on `threads` cores.

        Where the profile gives no figure for a precision, the next wider one that it has is
        what the unit computes in; a unit with none (an int8-only NPU asked for fp32) gives 0.
        """
        wider: dict[str, tuple[Precision, ...]] = {
            "int4": ("int4", "int8", "fp16", "fp32"),
            "int8": ("int8", "fp16", "fp32"),
            "fp16": ("fp16", "fp32"),
            "fp32": ("fp32",),
        }
        share = 1.0 if threads is None else min(threads, self.cores) / self.cores
        return share * next((self.peak_gops[p] for p in wider[precision] if p in self.peak_gops), 0.0)


class Memory(BaseModel):
    """What a model's weights and activations live in."""

    model_config = CONFIG

    ram_gb: float = Field(gt=0)
    app_share: float = Field(
        gt=0, le=1, description="share of the RAM that one app may take before it is killed"
    )
    bandwidth_gb_s: float = Field(gt=0, description="peak bandwidth of the memory")


class Thermal(BaseModel):
    """How long the device can keep up."""

    model_config = CONFIG

    sustained_fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="speed after long CPU load in a room of 25 degrees, as a share of the first minute's; "
        "none where it is not known, and the thermal model says",
    )


class Device(BaseModel):
    """A device profile. Units are in the field names; `sources` names where each figure is from."""

    model_config = CONFIG

    name: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    tier: Literal["flagship", "mid", "low", "laptop", "board", "desktop", "host"]
    year: int
    units: tuple[Unit, ...] = Field(min_length=1, strict=False)
    memory: Memory
    storage_read_mb_s: float = Field(gt=0, description="sequential read speed of the storage")
    idle_power_w: float = Field(ge=0, description="power of the device idle, screen on low")
    battery_wh: float | None = Field(default=None, gt=0, description="none for a device on mains")
    thermal: Thermal = Field(default=Thermal())
    sources: dict[str, str] = Field(description="for every figure, by its dotted path, where it is from")

    @property
    def cpu(self) -> Unit:
        """The device's CPU; every profile has one."""
        return next(unit for unit in self.units if unit.kind == "cpu")

    @property
    def app_memory_mb(self) -> float:
        """Megabytes (10^6 bytes) that one app may take."""
        return self.memory.ram_gb * 1000 * self.memory.app_share

    @model_validator(mode="after")
    def _sourced(self) -> Device:
        if not any(unit.kind == "cpu" for unit in self.units):
            raise ValueError("a profile needs a unit of kind 'cpu'")
        unit_names = [unit.name for unit in self.units]
        if len(set(unit_names)) < len(unit_names):
            raise ValueError(f"two units have one name: {', '.join(unit_names)}")
        sourced = {path for path, source in self.sources.items() if source.strip()}
        if missing := sorted(figures(self) - sourced):
            raise ValueError(f"no source given for {', '.join(missing)}")
        if stray := sorted(set(self.sources) - figures(self)):
            raise ValueError(f"a source for what is no figure of this profile: {', '.join(stray)}")
        return self


def figures(device: Device) -> set[str]:
    """The dotted path of every figure in a profile: "memory.ram_gb", "units.cpu.peak_gops.fp32", ..."""
    paths = {"storage_read_mb_s", "idle_power_w"}
    if device.thermal.sustained_fraction is not None:
        paths.add("thermal.sustained_fraction")
    paths |= {f"memory.{field}" for field in Memory.model_fields}
    if device.battery_wh is not None:
        paths.add("battery_wh")
    for unit in device.units:
        paths |= {f"units.{unit.name}.{field}" for field in ("cores", "efficiency", "power_w")}
        paths |= {f"units.{unit.name}.peak_gops.{precision}" for precision in unit.peak_gops}
    return paths


def dumps(device: Device) -> str:
    """`device` as the text of a profile file, which `load` reads back as an equal `Device`."""
    own = [("name", device.name), ("title", device.title), ("tier", device.tier), ("year", device.year)]
    own += [("storage_read_mb_s", device.storage_read_mb_s), ("idle_power_w", device.idle_power_w)]
    if device.battery_wh is not None:
        own.append(("battery_wh", device.battery_wh))
    blocks = [_table(None, own)]
    blocks.append(_table("[memory]", device.memory.model_dump().items()))
    if device.thermal.sustained_fraction is not None:
        blocks.append(_table("[thermal]", device.thermal.model_dump().items()))
    blocks += [_table("[[units]]", unit.model_dump().items()) for unit in device.units]
    blocks.append(_table("[sources]", device.sources.items()))
    return "\n".join(blocks)


def _table(header: str | None, items: Iterable[tuple[str, Any]]) -> str:
    return "".join(
        f"{line}\n" for line in ([header] if header else []) + [f"{_key(k)} = {_value(v)}" for k, v in items]
    )


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    # A JSON string is a TOML basic string, but for DEL, which JSON leaves bare and TOML refuses.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def names() -> list[str]:
    """Names of all built-in profiles, `host` included, sorted."""
    folder = resources.files("openglm.device") / "profiles"
    files = [item.name for item in folder.iterdir() if item.name.endswith(".toml")]
    return sorted(["host", *(name.removesuffix(".toml") for name in files)])


def load(device: str | Path | Device) -> Device:
    """A profile by name, from a TOML file of the user's, or as it is.

    Raises `InputError` for an unknown name (with the nearest ones) and for a file that is not a
    valid profile (with the field that is wrong).
    """
    if isinstance(device, Device):
        return device
    text = str(device)
    if text == "host":
        from openglm.device.host import measure

        return measure()
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise InputError(f"There is no device file {path}.", "Check the path.")
        try:
            return _parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"The device file {path} cannot be read: {error}.",
                "It has to be a readable TOML file in UTF-8.",
            ) from error
    if text not in names():
        raise InputError(
            f"There is no device '{text}'.",
            nearest(text, names()) + " `openglm devices` lists them; your own TOML file works too.",
        )
    source = resources.files("openglm.device") / "profiles" / f"{text}.toml"
    return _parse(source.read_text(encoding="utf-8"), text)


def _parse(text: str, origin: str) -> Device:
    try:
        return Device.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            f"The device file {origin} is not valid TOML: {error}.", "Mend that line."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"The device profile {origin} is not valid: {where}: {reason}.",
            "`openglm devices show cortex-a53-2gb --toml` prints one to start from.",
        ) from error
