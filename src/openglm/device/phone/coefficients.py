"""The learnt factors as a small data file, and a prediction from them.

`coefficients.json` is written by `python -m openglm.device.phone.learn`. A term's factor, in log, is that of
the term and its scheme, plus the runtime's, plus the device's for the resource that binds the term. A
device that was never measured takes the mean of the measured ones, scaled by its profile's figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from openglm.device.phone import costs
from openglm.device.phone.costs import Scheme
from openglm.device.profile import Device, Unit

FILE = "coefficients.json"

MEASURED = {
    "snapdragon-8-gen-3": "Samsung Galaxy S24",
    "snapdragon-8-elite": "Samsung Galaxy S25",
    "snapdragon-8-elite-gen-5": "Snapdragon 8 Elite Gen 5 QRD",
    "snapdragon-7-gen-4": "Snapdragon 7 Gen 4 QRD",
    "snapdragon-x-elite": "Snapdragon X Elite CRD",
}
"""The measured device with the chip of a profile."""

Factors = Mapping[str, Mapping[str, float]]
"""Log factors by term or resource, then by scheme."""


@dataclass(frozen=True)
class Interval:
    """Where nine of ten log(measured / predicted) are, for models that took no part in the fit."""

    low: float
    high: float
    models: int
    """How many models they are from."""


@dataclass(frozen=True)
class Coefficients:
    """Everything that a prediction needs. Devices are named as in the measurements."""

    source: str
    terms: Factors
    runtimes: Mapping[str, Factors]
    devices: Mapping[str, Factors]
    unmeasured: Factors
    """For a device of 1 TOPS and 1 GB/s; see `rate`."""
    slopes: Mapping[str, float]
    """How far a faster device is faster, by resource: its factor falls by so much of the rate's log."""
    intervals: Mapping[str, Mapping[str, Mapping[str, Interval]]]
    """By "measured" or "unmeasured" device, runtime and scheme."""
    cpu: Interval
    """Of the roofline on a CPU that runs int8 models in ONNX Runtime."""
    counted_factor: float
    """In log: how much longer the same models took there than their instructions say (`instructions.py`)."""
    counted: Interval
    """Of what counted instructions say, with the factor of CPUs other than the model ran on."""

    def log_ms(self, terms: Mapping[str, float], device: Factors, runtime: str, scheme: Scheme) -> float:
        """The log of the predicted milliseconds of a graph with these nominal terms."""
        of_runtime = self.runtimes[runtime]
        total = 0.0
        for name, nominal in terms.items():
            factor = self.terms[name][scheme] + of_runtime[name][scheme]
            total += nominal * math.exp(factor + device[costs.group(name)][scheme])
        return math.log(total)

    def device_like(self, unit: Unit, device: Device) -> Factors:
        """Factors for a device that was never measured."""
        return {
            group: {
                scheme: value - self.slopes[group] * math.log(rate(group, unit, device))
                for scheme, value in by.items()
            }
            for group, by in self.unmeasured.items()
        }

    def dumps(self) -> str:
        """The text of the data file; factors to three decimals, which is a tenth of a percent."""
        return json.dumps(_rounded(asdict(self)), indent=1) + "\n"


def rate(group: str, unit: Unit, device: Device) -> float:
    """How fast the device is at what binds a resource's terms: GB/s for memory, else TOPS in int8."""
    return device.memory.bandwidth_gb_s if group == "memory" else unit.peak("int8") / 1000


@cache
def load() -> Coefficients:
    """The coefficients that ship with the package."""
    return loads(resources.files("openglm.device.phone").joinpath(FILE).read_text(encoding="utf-8"))


def loads(text: str) -> Coefficients:
    """Read what `Coefficients.dumps` wrote."""
    record = json.loads(text)
    intervals = {
        known: {
            runtime: {scheme: Interval(**one) for scheme, one in schemes.items()}
            for runtime, schemes in runtimes.items()
        }
        for known, runtimes in record.pop("intervals").items()
    }
    cpu, counted = (Interval(**record.pop(name)) for name in ("cpu", "counted"))
    return Coefficients(intervals=intervals, cpu=cpu, counted=counted, **record)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value
