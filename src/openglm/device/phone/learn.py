"""Make `coefficients.json` anew: `python -m openglm.device.phone.learn FOLDER --counts FILE`.

Fits all measurements, sets the intervals by cross-validation over models, learns what a device that was never
measured takes from the others, and how far the CPU's roofline is off, and the instructions in FILE, which
`benchmarks/arm_latency.py` writes. Takes minutes and scipy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from openglm.device import instructions, profile
from openglm.device.heat import PHONES
from openglm.device.instructions import Counted
from openglm.device.latency import predict as roofline
from openglm.device.phone import costs
from openglm.device.phone.coefficients import FILE, MEASURED, Coefficients, Interval, load, rate
from openglm.device.phone.conformal import cross_validated, folds, interval, intervals
from openglm.device.phone.measurements import A78_BOARD, SOURCE, Measurements, read
from openglm.device.phone.refit import Row, bagged
from openglm.device.profile import Device, Unit
from openglm.errors import OpenGLMError
from openglm.model.analysis.statistics import Statistics
from openglm.writing import replacing

SLOPE, SLOPE_DEVIATION, DEVICE_ERROR = 0.75, 0.25, 0.15
"""A chip with twice the TOPS is 2^0.75 times as fast, give or take, and a device off by 15 % from that."""

CPU_THREADS = 4

A78_GHZ, A78_GB_S = 2.7 + 3 * 2.4, 25.6
"""The big cores of a QCS6490, one at 2.7 and three at 2.4 GHz, and LPDDR5-6400 on 32 bits."""


def cpus() -> dict[str, Device]:
    """Devices whose CPU ran whole int8 models in ONNX Runtime, because that runtime did not take their NPU.

    The Cortex-A78 is described from the per-core figures of docs/devices.md alone.
    """
    base = profile.load("mid-range-a76")
    peaks = {"fp32": 16 * A78_GHZ, "fp16": 32 * A78_GHZ, "int8": 64 * A78_GHZ}
    cpu = base.cpu.model_copy(update={"cores": 4, "peak_gops": peaks})
    memory = base.memory.model_copy(update={"bandwidth_gb_s": A78_GB_S})
    a78 = base.model_copy(update={"units": (cpu,), "memory": memory})
    measured = "snapdragon-7-gen-4"
    return {MEASURED[measured]: profile.load(measured), A78_BOARD: a78}


def learn(measurements: Measurements, counts: Sequence[Counted] | None = None) -> Coefficients:
    """Everything that ships; what it says of instructions stays as it is where there are no `counts`."""
    rows = measurements.npu
    groups = measurements.groups(rows)
    tables = for_unmeasured(bagged(rows, groups).tables(), phones())
    errors = _log_ms(rows) - cross_validated(rows, groups)
    unseen = [device_left_out(rows, groups, name) for name in MEASURED]
    own = [index for indices, _ in unseen for index in indices]
    alone = np.concatenate([predicted for _, predicted in unseen])
    unknown = intervals([rows[i] for i in own], [groups[i] for i in own], _log_ms(rows)[own] - alone)
    known = intervals(rows, groups, errors)
    shipped = load()
    factor, counted = shipped.counted_factor, shipped.counted
    if counts is not None:
        of_counts, logs = counted_logs(measurements, counts)
        groups_of_counts = measurements.groups(of_counts)
        factor = float(np.median(logs))
        counted = interval(groups_of_counts, logs - other_cpus_median(of_counts, groups_of_counts, logs))
    return replace(
        tables,
        source=SOURCE,
        devices={name: tables.devices[name] for name in MEASURED.values()},
        intervals={"measured": known, "unmeasured": _wider(unknown, known)},
        cpu=cpu_interval(measurements),
        counted_factor=factor,
        counted=counted,
    )


def _wider(
    unknown: dict[str, dict[str, Interval]], known: dict[str, dict[str, Interval]]
) -> dict[str, dict[str, Interval]]:
    """Intervals that hold those of a measured device too: knowing less is never a gain."""
    return {
        runtime: {
            scheme: Interval(
                min(one.low, known[runtime][scheme].low),
                max(one.high, known[runtime][scheme].high),
                one.models,
            )
            for scheme, one in schemes.items()
        }
        for runtime, schemes in unknown.items()
    }


def for_unmeasured(tables: Coefficients, profiles: Mapping[str, str]) -> Coefficients:
    """`tables` with what a device without measurements takes from those that have a profile.

    By resource, the devices' factors are regressed on the log of their rate, the slope shrunk towards `SLOPE`
    because the devices are few.
    """
    offsets: dict[str, dict[str, float]] = {}
    slopes: dict[str, float] = {}
    for group in costs.GROUPS:
        rates = np.log([rate(group, *_npu(name)) for name in profiles])
        factors = np.array(
            [[tables.devices[name][group][scheme] for scheme in costs.SCHEMES] for name in profiles.values()]
        )
        x, y = rates - rates.mean(), factors.mean(1) - factors.mean()
        precision = (DEVICE_ERROR / SLOPE_DEVIATION) ** 2
        slopes[group] = float((precision * SLOPE - x @ y) / (precision + x @ x))
        means = (factors + slopes[group] * rates[:, None]).mean(0)
        offsets[group] = dict(zip(costs.SCHEMES, means.tolist(), strict=True))
    return replace(tables, unmeasured=offsets, slopes=slopes)


def phones() -> dict[str, str]:
    """Of the measured devices those that are phones, as most that were never measured are."""
    return {name: measured for name, measured in MEASURED.items() if profile.load(name).tier in PHONES}


def _npu(name: str) -> tuple[Unit, Device]:
    device = profile.load(name)
    return next(unit for unit in device.units if unit.kind == "npu"), device


def device_left_out(
    rows: Sequence[Row], groups: Sequence[str], name: str, count: int = 5
) -> tuple[list[int], np.ndarray]:
    """Rows of the device of a profile, and log milliseconds predicted from its profile alone.

    Neither the device nor the models that are predicted took part in the fit.
    """
    unit, device = _npu(name)
    others = {other: measured for other, measured in phones().items() if other != name}
    own = [index for index, row in enumerate(rows) if row.device == MEASURED[name]]
    predicted = np.zeros(len(own))
    for test in folds(groups, count):
        kept = [index for index in np.flatnonzero(~test).tolist() if rows[index].device != MEASURED[name]]
        fitted = bagged([rows[index] for index in kept], [groups[index] for index in kept])
        tables = for_unmeasured(fitted.tables(), others)
        factors = tables.device_like(unit, device)
        for place, index in enumerate(own):
            if test[index]:
                row = rows[index]
                nominal = dict(zip(costs.NAMES, row.terms.tolist(), strict=True))
                predicted[place] = tables.log_ms(nominal, factors, row.runtime, row.scheme)
    return own, predicted


def cpu_errors(measurements: Measurements) -> tuple[list[Row], np.ndarray]:
    """Models run by ONNX Runtime in int8 on a CPU, and log(measured / roofline)."""
    rows, errors = [], []
    for row, device, statistics in on_cpus(measurements):
        found = roofline(statistics, device, device.cpu, CPU_THREADS)
        if found is not None:
            rows.append(row)
            errors.append(np.log(row.ms / found.ms))
    return rows, np.array(errors)


def counted_logs(measurements: Measurements, counts: Sequence[Counted]) -> tuple[list[Row], np.ndarray]:
    """Those of the same models that were counted, and log(measured / nominal).

    A count's model is "model/component" of the measurements.
    """
    of: dict[tuple[str, str], Counted] = {(count.model, count.cpu): count for count in counts}
    rows, logs = [], []
    for row, device, statistics in on_cpus(measurements):
        count = of.get((f"{row.model}/{row.component}", instructions.core(device)))
        if count is not None:
            rows.append(row)
            logs.append(np.log(row.ms / count.nominal_ms(statistics, device, device.cpu, CPU_THREADS)))
    return rows, np.array(logs)


def others_median(groups: Sequence[str], logs: np.ndarray) -> np.ndarray:
    """For each row the median of the other groups' logs."""
    of = np.array(groups)
    return np.array([np.median(logs[of != own]) for own in groups])


def other_cpus_median(rows: Sequence[Row], groups: Sequence[str], logs: np.ndarray) -> np.ndarray:
    """The same on the other CPUs alone: what is known of one that was never measured."""
    of, on = np.array(groups), np.array([row.device for row in rows])
    pairs = zip(groups, on, strict=True)
    return np.array([np.median(logs[(of != own) & (on != device)]) for own, device in pairs])


def on_cpus(measurements: Measurements) -> Iterator[tuple[Row, Device, Statistics]]:
    """What ONNX Runtime ran in int8 on a CPU that is described, with the statistics of the int8 graph."""
    devices = cpus()
    for row in measurements.cpu:
        if row.device in devices and row.runtime == "onnx" and row.scheme == "w8a8":
            graph = measurements.graphs[row.model, row.component]
            yield row, devices[row.device], as_int8(graph.statistics)


def cpu_interval(measurements: Measurements) -> Interval:
    """How far the roofline is off there."""
    rows, errors = cpu_errors(measurements)
    return interval(measurements.groups(rows), errors)


def as_int8(statistics: Statistics) -> Statistics:
    """The statistics of a float graph as if its products ran in int8."""
    layers = tuple(
        replace(
            layer,
            precision="int8",
            weight_bytes=layer.weight_bytes // 4,
            read_bytes=layer.read_bytes // 4,
            write_bytes=layer.write_bytes // 4,
        )
        for layer in statistics.layers
    )
    return replace(statistics, layers=layers)


def _log_ms(rows: Sequence[Row]) -> np.ndarray:
    return np.log([row.ms for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the folder with measured.csv and graphs/")
    parser.add_argument("--counts", type=Path, help="instructions of the models that ran on CPUs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / FILE)
    given = parser.parse_args()
    try:
        counts = instructions.read(given.counts) if given.counts else None
        made = learn(read(given.folder), counts)
    except OpenGLMError as error:
        print(error, file=sys.stderr)
        return 2
    with replacing(given.out) as part:
        part.write_text(made.dumps(), encoding="utf-8")
    print(f"Wrote {given.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
