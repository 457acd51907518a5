"""Devices: what a phone can do, as a data file with a source for every figure.

A profile is one TOML file in `profiles/`; a user's own file works wherever a name does.
`host` is no file: `device/host.py` measures this machine.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from openglm.errors import InputError, nearest

Precision = Literal["fp32", "fp16", "int8", "int4"]
UnitKind = Literal["cpu", "gpu", "npu"]


class Unit(BaseModel):
    """A processor of the device that can run a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
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

    model_config = ConfigDict(extra="forbid", frozen=True)

    ram_gb: float = Field(gt=0)
    app_share: float = Field(gt=0, le=1, description="share of the RAM that one app may take before it is killed")
    bandwidth_gb_s: float = Field(gt=0, description="peak bandwidth of the memory")


class Thermal(BaseModel):
    """How long the device can keep up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sustained_fraction: float = Field(gt=0, le=1, description="speed after long load, as a share of the first minute's")


class Device(BaseModel):
    """A device profile. Units are in the field names; `sources` names where each figure is from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str
    tier: Literal["flagship", "mid", "low", "board", "desktop", "host"]
    year: int
    units: tuple[Unit, ...] = Field(min_length=1)
    memory: Memory
    storage_read_mb_s: float = Field(gt=0, description="sequential read speed of the storage")
    idle_power_w: float = Field(ge=0, description="power of the device idle, screen on low")
    battery_wh: float | None = Field(default=None, gt=0, description="none for a device on mains")
    thermal: Thermal
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
        if missing := sorted(figures(self) - set(self.sources)):
            raise ValueError(f"no source given for {', '.join(missing)}")
        return self


def figures(device: Device) -> set[str]:
    """The dotted path of every figure in a profile: "memory.ram_gb", "units.cpu.peak_gops.fp32", ..."""
    paths = {"storage_read_mb_s", "idle_power_w", "thermal.sustained_fraction"}
    paths |= {f"memory.{field}" for field in Memory.model_fields}
    if device.battery_wh is not None:
        paths.add("battery_wh")
    for unit in device.units:
        paths |= {f"units.{unit.name}.{field}" for field in ("cores", "efficiency", "power_w")}
        paths |= {f"units.{unit.name}.peak_gops.{precision}" for precision in unit.peak_gops}
    return paths


def names() -> list[str]:
    """Names of all built-in profiles, `host` included, sorted."""
    folder = resources.files("openglm.device") / "profiles"
    return sorted([item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")] + ["host"])


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
        return _parse(path.read_text(encoding="utf-8"), str(path))
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
        raise InputError(f"The device file {origin} is not valid TOML: {error}.", "Mend that line.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"The device profile {origin} is not valid: {where}: {first['msg']}.",
            "`openglm devices show cortex-a53-2gb --toml` prints one to start from.",
        ) from error
