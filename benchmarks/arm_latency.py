"""How wrong latency on ARM CPUs is when predicted from instructions counted under emulation.

    openglm doctor --install arm-emulation
    python benchmarks/arm_latency.py --data FOLDER [--write-docs] [--counts FILE]

FOLDER holds the public measurements (docs/latency.md says which). The int8 models that ONNX Runtime ran on
CPUs are made from their graphs, with random weights: instructions do not depend on them. Each is counted on
the emulated core that a CPU's cores resemble most, on one thread, a quarter of an hour in all; counts are
kept in build/benchmarks, and written to FILE for `python -m openglm.device.phone.learn`. A model is predicted
with the factor of the others.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import tables
from openglm.arm import install
from openglm.arm.compare import count
from openglm.arm.cpus import CPUS, Cpu
from openglm.arm.emulator import Counts
from openglm.device import instructions
from openglm.device.instructions import Counted
from openglm.device.phone.conformal import interval
from openglm.device.phone.learn import (
    counted_logs,
    cpu_errors,
    cpus,
    on_cpus,
    other_cpus_median,
    others_median,
)
from openglm.device.phone.measurements import Measurements, read
from openglm.device.phone.refit import Row

LARGEST = 20e9
"""Multiply-accumulates of the largest model that is counted: emulating the six above takes hours."""

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks" / "arm-latency"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--counts", type=Path, help="write the counts to this file")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    data = read(given.data)
    counts = all_counts(data, given.data / "graphs")
    if given.counts:
        instructions.write(given.counts, counts)
    emulation = install.needed()
    versions = {**emulation.packages, "QEMU": emulation.qemu}
    how = "Latencies: measured by Qualcomm on real devices, not here; see docs/latency.md for the source."
    tables.publish("arm-latency", tables_of(data, counts), given, versions, how)
    return 0


def all_counts(data: Measurements, graphs: Path) -> list[Counted]:
    """The measured models on the core that each CPU resembles; the smallest first."""
    with (graphs / "index.csv").open(encoding="utf-8", newline="") as file:
        files = {(line["model"], line["component"]): line["file"] for line in csv.DictReader(file)}
    wanted = sorted(
        (item for item in on_cpus(data) if item[2].macs <= LARGEST), key=lambda item: item[2].macs
    )
    made = []
    for row, device, statistics in wanted:
        core = instructions.core(device)
        made.append(
            Counted(
                model=f"{row.model}/{row.component}",
                graph=instructions.digest(statistics),
                cpu=core,
                shape={},
                engine=f"onnxruntime {install.needed().packages['onnxruntime']}",
                **vars(counted(graphs / files[row.model, row.component], CPUS[core])),
            )
        )
    return made


def tables_of(data: Measurements, counts: Sequence[Counted]) -> str:
    """How far each predictor is off, by CPU; and how often the interval holds."""
    rows, logs = counted_logs(data, counts)
    of = {(row.model, row.device): wrong for row, wrong in zip(*cpu_errors(data), strict=True)}
    roofline = np.array([of[row.model, row.device] for row in rows])
    groups = data.groups(rows)
    devices = np.array([row.device for row in rows])
    predictors = {
        "roofline": roofline,
        "roofline, one factor": roofline - others_median(groups, roofline),
        "instructions, one factor": logs - others_median(groups, logs),
        "instructions, the other CPU's factor": logs - other_cpus_median(rows, groups, logs),
    }
    lines = []
    for device in (*sorted(set(devices)), "both"):
        own = np.ones(len(rows), bool) if device == "both" else devices == device
        cores = instructions.core(cpus()[device]) if device != "both" else ""
        for name, wrong in predictors.items():
            off = 100 * np.abs(np.expm1(-wrong[own]))
            shares = np.exp(np.quantile(wrong[own], [0.05, 0.5, 0.95]))
            lines.append(
                [
                    *(f"{device} ({cores})" if cores else device, name, str(own.sum())),
                    f"{np.median(off):.0f} / {np.quantile(off, 0.9):.0f}",
                    *(f"{share:.2f}" for share in shares),
                ]
            )
    head = ["CPU (emulated core)", "predictor", "models", "median / 90th, %", "5 %", "median", "95 %"]
    return "\n\n".join(
        [
            "Error of the predicted latency, and measured / predicted:",
            tables.markdown(head, lines, left=2),
            coverage(rows, groups, logs),
        ]
    )


def coverage(rows: Sequence[Row], groups: Sequence[str], logs: np.ndarray) -> str:
    """How often an interval from the other models' errors holds, with the other CPU's factor as it ships."""
    of, wrong = np.array(groups), logs - other_cpus_median(rows, groups, logs)
    holds, widths = [], []
    for group in sorted(set(groups)):
        kept = np.flatnonzero(of != group)
        others, owners = [rows[place] for place in kept], [groups[place] for place in kept]
        one = interval(owners, logs[kept] - other_cpus_median(others, owners, logs[kept]))
        holds += [one.low <= each <= one.high for each in wrong[of == group]]
        widths.append(one.high - one.low)
    width = np.exp(np.median(widths) / 2)
    return (
        f"With the other CPU's factor the 90 % interval of the other models, which is the one that `fit` "
        f"shows, holds {np.mean(holds):.0%} of the time (half width x / {width:.2f})."
    )


def counted(graph: Path, core: Cpu) -> Counts:
    """One inference of a graph in int8 on a core; found once and kept."""
    depends = hashlib.sha256(f"{install.needed().packages} {install.needed().source}".encode())
    depends.update(graph.read_bytes())
    kept = FOLDER / f"{graph.stem}-{depends.hexdigest()[:16]}-{core.name}.json"
    if not kept.is_file():
        print(f"counting {graph.stem} on {core.name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            feed = quantize(graph, path)
            kept.write_text(json.dumps(vars(count(path, [feed], core, 1))), encoding="utf-8")
    return Counts(**json.loads(kept.read_text(encoding="utf-8")))


def quantize(graph: Path, path: Path) -> Mapping[str, np.ndarray]:
    """Write the int8 form of a graph that has no weights, and return what it was calibrated on.

    Every activation in 8 bits, as ONNX Runtime's QNN provider wants it: the measured models were made for
    that provider, and ran on the CPU because it did not take these chips' NPUs.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType
    from onnxruntime.quantization import quantize as write
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    model = with_weights(graph)
    rng = np.random.default_rng(0)
    feed = {
        value.name: rng.random([size.dim_value for size in value.type.tensor_type.shape.dim], np.float32)
        for value in model.graph.input
    }

    class Once(CalibrationDataReader):  # type: ignore[misc]
        """The one input."""

        def __init__(self) -> None:
            self.feeds = iter([feed])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.feeds, None)

    settings = get_qnn_qdq_config(
        model, Once(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True
    )
    write(model, path, settings)
    return feed


def with_weights(graph: Path) -> onnx.ModelProto:
    """The graph with random weights that keep what flows through it finite (He et al., 2015)."""
    model = onnx.load(graph, load_external_data=False)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            summed = np.prod(tensor.dims[1:]) if len(tensor.dims) > 2 else min(tensor.dims)
            values = rng.standard_normal(tensor.dims, np.float32) * np.float32(np.sqrt(2 / summed))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


if __name__ == "__main__":
    sys.exit(main())
