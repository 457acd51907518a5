"""Which devices a model runs on, of all that are known, and which share of a market that is."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglm.device import profile
from openglm.device.fit import Budget, Load, UnitChoice, UnitError, Verdict, judge
from openglm.device.footprint import footprint
from openglm.device.phone.estimate import Runtime
from openglm.device.profile import Device
from openglm.errors import InputError, nearest
from openglm.memory.lifetime import peak_activation_bytes
from openglm.model.analysis.statistics import analyse
from openglm.model.model import Model

OTHER = "other"
"""A row of a market for phones that no profile stands for."""

TIERS = ("flagship", "mid", "low", "laptop", "board", "desktop")


@dataclass(frozen=True)
class Market:
    """Devices, each with its share; shares and `unknown` sum to 1."""

    devices: tuple[Device, ...]
    shares: tuple[float, ...]
    unknown: float = 0.0


@dataclass(frozen=True)
class Entry:
    """One device of a survey."""

    device: Device
    verdict: Verdict | None
    reason: str
    """Why there is no verdict, or which limits are missed; empty where it fits."""
    share: float

    @property
    def fits(self) -> bool:
        return self.verdict is not None and self.verdict.fits


@dataclass(frozen=True)
class Survey:
    """One model on many devices; those that it fits come first, the fastest of them at the top."""

    model: str
    entries: tuple[Entry, ...]
    unknown: float
    weighted: bool
    """Whether shares are a market's; otherwise every device counts the same."""

    @property
    def running(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.fits)

    @property
    def share(self) -> float:
        """Of the market, what the model fits."""
        return sum(entry.share for entry in self.running)

    @property
    def headline(self) -> str:
        """Where the model runs, in a few words."""
        if self.weighted:
            return f"{self.model} runs on {self.share:.0%} of these devices"
        return f"{self.model} fits {len(self.running)} of {len(self.entries)} devices"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "model": self.model,
            "share": self.share,
            "unknown_share": self.unknown,
            "weighted": self.weighted,
            "devices": [
                {
                    "device": entry.device.name,
                    "title": entry.device.title,
                    "tier": entry.device.tier,
                    "share": entry.share,
                    "fits": entry.fits,
                    "reason": entry.reason,
                    "verdict": entry.verdict and entry.verdict.to_json(),
                }
                for entry in self.entries
            ],
        }


def survey(
    model: Model | str | Path,
    market: Market | None = None,
    budget: Budget | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    unit: UnitChoice = "cpu",
    load: Load | None = None,
    runtime: Runtime = "onnxruntime",
) -> Survey:
    """A verdict for each device of `market`, or of all profiles; the graph is analysed once.

    A device that has no such unit, or none for the model's precision, is one that it does not run on.
    """
    if not isinstance(model, Model):
        from openglm.model.auto import AutoModel

        model = AutoModel.from_pretrained(model)
    statistics = analyse(model.graph, dims)
    memory = footprint(statistics, peak_activation_bytes(statistics.shapes))
    given = market or everything()

    def entry(device: Device, share: float) -> Entry:
        try:
            verdict = judge(
                model,
                device,
                statistics,
                memory,
                budget,
                threads=threads,
                unit=unit,
                load=load,
                runtime=runtime,
            )
        except UnitError as error:
            return Entry(device, None, error.problem, share)
        return Entry(
            device, verdict, ", ".join(limit.name for limit in verdict.limits if not limit.ok), share
        )

    entries = [entry(device, share) for device, share in zip(given.devices, given.shares, strict=True)]
    entries.sort(key=_order)
    return Survey(model.name, tuple(entries), given.unknown, weighted=market is not None)


def _order(entry: Entry) -> tuple[bool, float, str]:
    ms = entry.verdict.limit("latency").predicted if entry.verdict else math.inf
    return not entry.fits, ms, entry.device.name


def everything() -> Market:
    """All built-in profiles but `host`, each with the same share."""
    devices = tuple(profile.load(name) for name in profile.names() if name != "host")
    return Market(devices, (1 / len(devices),) * len(devices))


def read_market(path: Path) -> Market:
    """A market from a .csv with the columns `device` and `share`.

    A device is a profile's name, a .toml file (from the list's folder), a tier, or `other` for phones that
    no profile stands for. A tier's share is divided evenly among its profiles that have no row of their
    own. Shares are in any unit, with or without "%": what counts is their ratio.
    Raises `InputError` for what cannot be read, with the line.
    """
    rows = _rows(path)
    named = {name for _, name, _ in rows}
    shares: dict[str, float] = {}
    devices: dict[str, Device] = {}
    unknown = 0.0
    for line, name, share in rows:
        if name == OTHER:
            unknown += share
            continue
        members = _members(path, line, name, named)
        for device in members:
            devices[device.name] = device
            shares[device.name] = shares.get(device.name, 0.0) + share / len(members)
    total = unknown + sum(shares.values())
    if not devices or total <= 0:
        raise InputError(
            f"The market list {path} names no device with a share above zero.",
            "Give it lines such as: snapdragon-8-gen-3,12",
        )
    return Market(tuple(devices.values()), tuple(shares[name] / total for name in devices), unknown / total)


def _rows(path: Path) -> list[tuple[int, str, float]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            heads = [head.strip().lower() for head in reader.fieldnames or ()]
            reader.fieldnames = heads
            if not {"device", "share"} <= set(heads):
                raise InputError(
                    f"The market list {path} has no columns `device` and `share`.",
                    "Its first line has to be: device,share",
                )
            rows = [(reader.line_num, (row["device"] or "").strip(), row["share"] or "") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The market list {path} cannot be read: {error}.", "It has to be a .csv file in UTF-8."
        ) from error
    return [(line, name, _share(path, line, name, text)) for line, name, text in rows if name]


def _share(path: Path, line: int, name: str, text: str) -> float:
    try:
        share = float(text.replace("%", "").strip())
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise InputError(
            f"Line {line} of {path} gives '{name}' the share '{text.strip()}'.",
            "A share is a number, zero or more.",
        )
    return share


def _members(path: Path, line: int, name: str, named: set[str]) -> Sequence[Device]:
    """The devices that a row stands for."""
    if name in TIERS:
        known = [device for device in everything().devices if device.tier == name]
        members = [device for device in known if device.name not in named]
        if not members:
            raise InputError(
                f"Line {line} of {path} gives the tier '{name}' a share, but each of its devices has one.",
                "Leave one of them out.",
            )
        return members
    if name.endswith(".toml"):
        return [profile.load(path.parent / name)]
    if name == "host" or name not in profile.names():
        raise InputError(
            f"Line {line} of {path} names '{name}', which is no device.",
            nearest(name, [*profile.names(), *TIERS, OTHER])
            + " Phones that no profile stands for go under `other`.",
        )
    return [profile.load(name)]
