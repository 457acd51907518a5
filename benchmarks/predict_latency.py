"""How wrong the predicted latency is: phones' NPUs, models and devices that took no part in the fit.

    python benchmarks/predict_latency.py --data FOLDER [--write-docs]

FOLDER holds the public measurements (docs/latency.md says which). Models are left out in groups: a model
with its components and with those of the same graph; "by family" leaves out all sizes and variants of an
architecture too. Beside the predictor: a roofline scaled to each cell, multiply-accumulates alone, and
the nearest neighbour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

import tables
from openglm.device.phone import costs
from openglm.device.phone.coefficients import MEASURED
from openglm.device.phone.conformal import cross_validated, folds, intervals
from openglm.device.phone.learn import cpu_errors, device_left_out
from openglm.device.phone.measurements import Graph, Measurements, read
from openglm.device.phone.refit import Row

PHONES = tuple(MEASURED.values())
RUNTIMES = {"qnn_dlc": "QNN", "tflite": "LiteRT", "onnx": "ONNX Runtime"}
TARGETS = {"float": 0.10, "w8a8": 0.15}
TAIL, DEVICE_TARGET, COVERAGE = 0.40, 0.25, (0.85, 0.95)
ON_CHIP_BYTES = 2e6


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    text, met = measured(read(given.data))
    versions = {name: version(name) for name in ("numpy", "scipy")}
    how = "Latencies: measured by Qualcomm on real devices, not here; see docs/latency.md for the source."
    tables.publish("latency", text, given, versions, how)
    return 0 if met else 1


def measured(data: Measurements) -> tuple[str, bool]:
    """The tables, and whether every target is met."""
    rows = data.npu
    truth = np.log([row.ms for row in rows])
    groups = data.groups(rows)
    by_model = cross_validated(rows, groups)
    families = data.groups(rows, families=True)
    predictors = {
        "openglm": by_model,
        "openglm, by family": cross_validated(rows, families),
        "roofline, scaled": scaled_roofline(data, rows, groups),
        "MACs alone": macs_alone(data, rows, groups),
        "nearest": nearest(data, rows, groups),
    }
    verdicts: list[tuple[bool, str]] = []
    parts = [accuracy(rows, truth, predictors, verdicts), graphs_without_doubt(data, rows, truth, by_model)]
    parts.append(coverage(rows, groups, truth - by_model, verdicts))
    parts.append(left_out(rows, groups, truth, verdicts))
    parts.append(on_cpu(data))
    lines = [f"- {'PASS' if ok else 'MISS'}: {what}" for ok, what in verdicts]
    graphs = len({(row.model, row.component) for row in rows})
    count = f"{len(rows)} measurements of {graphs} graphs on the NPUs of five devices"
    parts.append(f"{count}; {len(set(groups))} groups of models, {len(set(families))} families.")
    return "\n\n".join([*parts, "\n".join(lines)]), all(ok for ok, _ in verdicts)


def accuracy(
    rows: Sequence[Row],
    truth: np.ndarray,
    predictors: dict[str, np.ndarray],
    verdicts: list[tuple[bool, str]],
) -> str:
    """Median and 90th percentile of the relative error, by phone, runtime and scheme."""
    made = []
    for scheme in TARGETS:
        for runtime, title in RUNTIMES.items():
            for device in PHONES:
                own = picked(rows, devices=(device,), runtime=runtime, scheme=scheme)
                if len(own):
                    cells = [errors(found[own], truth[own]) for found in predictors.values()]
                    made.append([scheme, title, device, str(len(own)), *cells])
    for scheme, target in TARGETS.items():
        own = picked(rows, scheme=scheme)
        cells = [errors(found[own], truth[own]) for found in predictors.values()]
        made.append([f"**{scheme}**", "all", "all five", str(len(own)), *cells])
        wrong = relative(predictors["openglm"][own], truth[own])
        middle, tail = np.median(wrong), np.quantile(wrong, 0.9)
        verdicts.append((middle <= target, f"{scheme}: median error {middle:.0%}, wanted {target:.0%}"))
        verdicts.append((tail < TAIL, f"{scheme}: 90th percentile {tail:.0%}, wanted under {TAIL:.0%}"))
    head = ["scheme", "runtime", "device", "models", *predictors]
    return "Median / 90th percentile of the error, %:\n\n" + tables.markdown(head, made, left=3)


def graphs_without_doubt(
    data: Measurements, rows: Sequence[Row], truth: np.ndarray, predicted: np.ndarray
) -> str:
    """The same without the graphs that are noted to differ from what was measured."""
    said = []
    for scheme in TARGETS:
        own = picked(rows, scheme=scheme)
        sure = np.array([i for i in own if not data.graphs[rows[i].model, rows[i].component].doubtful])
        said.append(f"{scheme} {errors(predicted[sure], truth[sure])} ({len(sure)} rows)")
    return f"Without the graphs noted to differ from what was measured: {', '.join(said)}."


def coverage(
    rows: Sequence[Row], groups: Sequence[str], wrong: np.ndarray, verdicts: list[tuple[bool, str]]
) -> str:
    """How often intervals from the other folds' errors hold, by runtime and scheme."""
    shown = np.concatenate([picked(rows, scheme=scheme) for scheme in TARGETS])
    holds = np.zeros(len(rows), bool)
    width = np.zeros(len(rows))
    for test in folds(groups, seed=1):
        kept = np.flatnonzero(~test)
        found = intervals([rows[i] for i in kept], [groups[i] for i in kept], wrong[kept])
        for index in np.intersect1d(np.flatnonzero(test), shown):
            one = found[rows[index].runtime][rows[index].scheme]
            holds[index] = one.low <= wrong[index] <= one.high
            width[index] = one.high - one.low
    made = []
    for scheme in TARGETS:
        for runtime, title in RUNTIMES.items():
            own = picked(rows, runtime=runtime, scheme=scheme)
            low, high = COVERAGE
            share = holds[own].mean()
            middle = np.exp(np.median(width[own]) / 2)
            made.append([scheme, title, str(len(own)), f"{share:.0%}", f"x / {middle:.2f}"])
            verdicts.append(
                (
                    low <= share <= high,
                    f"{scheme}, {title}: 90 % intervals hold {share:.0%}, wanted 85 to 95 %",
                )
            )
    return "90 % intervals:\n\n" + tables.markdown(
        ["scheme", "runtime", "models", "hold", "half width"], made, left=2
    )


def left_out(
    rows: Sequence[Row], groups: Sequence[str], truth: np.ndarray, verdicts: list[tuple[bool, str]]
) -> str:
    """A device whose measurements were not used, from its profile, on models that were not used either."""
    made = []
    for name in MEASURED:
        own, predicted = device_left_out(rows, groups, name)
        for scheme in TARGETS:
            chosen = [place for place, index in enumerate(own) if rows[index].scheme == scheme]
            if chosen:
                found, true = predicted[chosen], truth[own][chosen]
                made.append([name, scheme, str(len(chosen)), errors(found, true)])
                middle = float(np.median(relative(found, true)))
                verdicts.append(
                    (
                        middle <= DEVICE_TARGET,
                        f"{name} left out, {scheme}: median error {middle:.0%}, wanted 25 %",
                    )
                )
    return (
        "A device left out altogether, on models that were left out too (the 7 Gen 4's peak in its profile "
        "was itself fitted to these measurements):\n\n"
        + tables.markdown(["profile", "scheme", "models", "median / 90th percentile, %"], made, left=2)
    )


def on_cpu(data: Measurements) -> str:
    """The roofline on CPUs, from per-core figures alone."""
    rows, wrong = cpu_errors(data)
    made = []
    for device in sorted({row.device for row in rows}):
        own = [index for index, row in enumerate(rows) if row.device == device]
        quantiles = np.exp(np.quantile(wrong[own], [0.05, 0.5, 0.95]))
        made.append([device, str(len(own)), *(f"{each:.2f}" for each in quantiles)])
    head = ["CPU, int8, ONNX Runtime", "models", "5 %", "median", "95 %"]
    return "Measured / predicted by the roofline on CPUs:\n\n" + tables.markdown(head, made, left=1)


def scaled_roofline(data: Measurements, rows: Sequence[Row], groups: Sequence[str]) -> np.ndarray:
    """The larger of all products at the peak and all bytes at the bandwidth, scaled by cell to fit best.

    What a kernel reads and writes counts beyond 2 MB, which serves a roofline better than the fit's 6.
    """
    products = np.array([row.terms for row in rows])
    products = products[:, [costs.group(name) == "product" for name in costs.NAMES]].sum(1)
    moved = np.array([_moved(data.graphs[row.model, row.component], row.scheme) for row in rows])
    return by_cell(
        rows, groups, np.log(np.maximum(products, costs.MEMORY_BYTE_MS * moved) + 1e-9), slope=False
    )


def _moved(graph: Graph, scheme: costs.Scheme) -> float:
    activation, weight = costs.ACTIVATION_BYTES[scheme], costs.WEIGHT_BYTES[scheme]
    return sum(
        weight * kernel.weights + max(0.0, activation * (kernel.read + kernel.written) - ON_CHIP_BYTES)
        for kernel in graph.kernels
    )


def macs_alone(data: Measurements, rows: Sequence[Row], groups: Sequence[str]) -> np.ndarray:
    """A power of the multiply-accumulates, fitted by cell."""
    macs = [data.graphs[row.model, row.component].statistics.macs for row in rows]
    return by_cell(rows, groups, np.log(macs), slope=True)


def by_cell(rows: Sequence[Row], groups: Sequence[str], x: np.ndarray, *, slope: bool) -> np.ndarray:
    """log ms = a + b x for each device, runtime and scheme, from the other folds; b is 1 without `slope`."""
    truth = np.log([row.ms for row in rows])
    cells = np.array(["|".join((row.device, row.runtime, row.scheme)) for row in rows])
    predicted = np.zeros(len(rows))
    for test in folds(groups):
        for cell in set(cells[test]):
            kept, own = (cells == cell) & ~test, (cells == cell) & test
            kept = kept if kept.any() else ~test
            b = np.polyfit(x[kept], truth[kept], 1)[0] if slope and kept.sum() > 2 else 1.0
            predicted[own] = np.median(truth[kept] - b * x[kept]) + b * x[own]
    return predicted


def nearest(data: Measurements, rows: Sequence[Row], groups: Sequence[str]) -> np.ndarray:
    """The latency of the model most alike in work, weights, activations and kernels, in the same cell."""
    truth = np.log([row.ms for row in rows])
    statistics = [data.graphs[row.model, row.component] for row in rows]
    features = np.log(
        [
            [
                graph.statistics.macs,
                graph.statistics.parameters,
                sum(kernel.written for kernel in graph.kernels),
                len(graph.kernels),
            ]
            for graph in statistics
        ]
    )
    features /= features.std(0)
    cells = np.array(["|".join((row.device, row.runtime, row.scheme)) for row in rows])
    predicted = np.zeros(len(rows))
    for test in folds(groups):
        for index in np.flatnonzero(test):
            kept = np.flatnonzero((cells == cells[index]) & ~test)
            kept = kept if len(kept) else np.flatnonzero(~test)
            distance = ((features[kept] - features[index]) ** 2).sum(1)
            predicted[index] = truth[kept[np.argmin(distance)]]
    return predicted


def picked(
    rows: Sequence[Row], devices: Sequence[str] = PHONES, runtime: str | None = None, scheme: str = "float"
) -> np.ndarray:
    """Rows of these devices, runtimes (the three if none is named) and scheme."""
    wanted = (runtime,) if runtime else tuple(RUNTIMES)
    chosen = [
        index
        for index, row in enumerate(rows)
        if row.device in devices and row.runtime in wanted and row.scheme == scheme
    ]
    return np.array(chosen, int)


def relative(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """|predicted - measured| / measured, from logs."""
    return np.abs(np.expm1(predicted - truth))


def errors(predicted: np.ndarray, truth: np.ndarray) -> str:
    """Median and 90th percentile, in percent."""
    wrong = 100 * relative(predicted, truth)
    return f"{np.median(wrong):.0f} / {np.quantile(wrong, 0.9):.0f}"


if __name__ == "__main__":
    sys.exit(main())
