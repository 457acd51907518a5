"""Reading the public measurements that the coefficients are learnt from.

A folder with `measured.csv` (a row a measurement) and `graphs/` (ONNX graphs without weights, with
`index.csv`), made from quic/ai-hub-models. Only rows of models whose graph is there are used.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from openglm.device.phone import costs
from openglm.device.phone.coefficients import MEASURED
from openglm.device.phone.refit import Row
from openglm.device.phone.workload import Kernel, boundary_elements, kernels
from openglm.errors import InputError
from openglm.model.analysis.statistics import Statistics, analyse

SOURCE = (
    "quic/ai-hub-models, commit 52c080d2, perf.yaml of each model; BSD-3-Clause, Copyright 2025 Qualcomm "
    "Technologies, Inc. and/or its subsidiaries"
)

A78_BOARD = "Dragonwing RB3 Gen 2 Vision Kit"
"""A board with four Cortex-A78, of which only runs on the CPU are used."""

DEVICES = (*MEASURED.values(), A78_BOARD)
"""What is used of the fourteen: the other boards and proxies teach no more about phones."""

FAMILIES = (
    *("opus_mt", "whisper", "regnet", "efficientnet", "efficientvit", "hrnet", "detr_resnet", "yolov1[01]"),
    *("stable_diffusion|controlnet", "yolov8|fastsam", "yolov3|deepbox", "bert|electra"),
    *("resnet_(3d|mixed|2plus1d)", "^(resnet50|wideresnet50|resnext101)"),
)
"""Models of one architecture in other sizes or for other tasks, as patterns of their names."""


@dataclass(frozen=True)
class Graph:
    """One measured model's graph."""

    statistics: Statistics
    doubtful: bool
    """Whether it is noted to differ from what was measured."""

    @cached_property
    def kernels(self) -> list[Kernel]:
        """As an NPU runs them."""
        return kernels(self.statistics.shapes)

    def terms(self, scheme: costs.Scheme, runtime: str) -> np.ndarray:
        """Nominal milliseconds, in the order of `costs.NAMES`."""
        boundary = boundary_elements(self.statistics.shapes)
        found = costs.terms(self.kernels, boundary, scheme, runtime)
        return np.array([found.get(name, 0.0) for name in costs.NAMES])


@dataclass(frozen=True)
class Measurements:
    """What the folder holds."""

    graphs: dict[tuple[str, str], Graph]
    """By model and component."""
    npu: list[Row]
    cpu: list[Row]
    """Runs of whole models on the CPU."""

    def groups(self, rows: Sequence[Row], *, families: bool = False) -> list[str]:
        """What must not be split between fitting and testing, for each row.

        A model is one group with its components, and with models whose graph is the same (the four
        translators; BERT and ELECTRA). With `families`, sizes and variants of an architecture are too.
        """
        known: dict[str, str] = {}

        def root(name: str) -> str:
            while known.setdefault(name, name) != name:
                name = known[name]
            return name

        for model, component in self.graphs:
            found = next((pattern for pattern in FAMILIES if re.search(pattern, model)), model)
            same = str([(k.kind, k.macs, k.written) for k in self.graphs[model, component].kernels])
            for other in (same, found) if families else (same,):
                known[root(model)] = root(other)
        return [root(row.model) for row in rows]


def read(folder: Path) -> Measurements:
    """Read the measurements; raises `InputError` where the folder or a file is not what it should be."""
    graphs = dict(_graphs(folder / "graphs"))
    npu: list[Row] = []
    cpu: list[Row] = []
    known: dict[tuple[str, str, str, str], np.ndarray] = {}
    for record in _records(folder / "measured.csv"):
        key, scheme, runtime = (record["model"], record["component"]), record["precision"], record["runtime"]
        if key not in graphs or scheme not in costs.SCHEMES or record["device"] not in DEVICES:
            continue
        if (*key, scheme, runtime) not in known:
            known[*key, scheme, runtime] = graphs[key].terms(scheme, runtime)
        ms = float(record["latency_ms"])
        row = Row(*key, record["device"], runtime, scheme, ms, known[*key, scheme, runtime])
        if record["compute_unit"] != "GPU":
            (npu if record["compute_unit"] == "NPU" and record["device"] != A78_BOARD else cpu).append(row)
    return Measurements(graphs, npu, cpu)


def _graphs(folder: Path) -> Iterator[tuple[tuple[str, str], Graph]]:
    import onnx
    import onnx_ir as ir

    for record in _records(folder / "index.csv"):
        proto = onnx.load(folder / record["file"], load_external_data=False)
        doubtful = re.search(r"parameters|differs|uncollapsed|fits the stated", record["note"]) is not None
        yield (record["model"], record["component"]), Graph(analyse(ir.from_proto(proto)), doubtful)


def _records(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(
            f"The measurements cannot be read: {error}.",
            "Give a folder with measured.csv and graphs/, as docs/latency.md describes it.",
        ) from error
