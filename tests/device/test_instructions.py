"""Latency from counted instructions, by hand, and files of counts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from openglm.device import profile
from openglm.device.fit import fit
from openglm.device.instructions import Counted, core, digest, found, read, write
from openglm.device.latency import BANDWIDTH_SHARE
from openglm.device.phone import coefficients
from openglm.device.phone.learn import (
    CPU_THREADS,
    as_int8,
    counted_logs,
    cpus,
    other_cpus_median,
    others_median,
)
from openglm.device.phone.measurements import A78_BOARD, Graph, Measurements
from openglm.device.phone.refit import Row
from openglm.device.profile import Device
from openglm.errors import InputError
from openglm.model.analysis.statistics import Statistics, analyse


def linear(path: Path, columns: int = 128) -> Path:
    """A file with x (rows, 256) times a weight."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>'
        f" g (float[rows, 256] x) => (float[rows, {columns}] y) {{ y = MatMul(x, w) }}"
    )
    weight = np.random.default_rng(0).normal(size=(256, columns)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, path)
    return path


def statistics(path: Path, rows: int = 16) -> Statistics:
    return analyse(ir.load(path), {"rows": rows})


def counted(path: Path, **changes: Any) -> Counted:
    given: dict[str, Any] = {
        "model": path.name,
        "graph": digest(statistics(path)),
        "cpu": "cortex-a53",
        "shape": {"rows": 16},
        "engine": "onnxruntime",
        "instructions": 8_000_000,
        "floats": 2_000_000,
        "integers": 0,
        "dots": 0,
        "matrices": 0,
    }
    return Counted(**{**given, **changes})


def a53() -> Device:
    return profile.load("cortex-a53-2gb")


@pytest.mark.parametrize(
    ("multiplied", "cycles"),
    [(2_000_000, 4_000_000), (6_000_000, 6_000_000)],
    ids=["bound by all", "bound by multiplications"],
)
def test_a_core_starts_two_instructions_a_cycle_and_one_multiplication(
    tmp_path: Path, multiplied: int, cycles: int
) -> None:
    path = linear(tmp_path / "m.onnx")
    count = counted(path, floats=multiplied // 2, dots=multiplied // 2)
    still = replace(statistics(path), layers=())  # nothing in memory
    device = a53()
    one = count.nominal_ms(still, device, device.cpu, threads=1)
    assert one == pytest.approx(cycles / 1.4e9 * 1e3)  # a Cortex-A53 at 1.4 GHz
    assert count.nominal_ms(still, device, device.cpu, threads=4) == pytest.approx(one / 4)


def test_memory_comes_on_top(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    count, known, device = counted(path), statistics(path), a53()
    moved = 4 * (256 * 128 + 16 * 256 + 16 * 128)
    still = count.nominal_ms(replace(known, layers=()), device, device.cpu, 1)
    added = count.nominal_ms(known, device, device.cpu, 1) - still
    assert added == pytest.approx(moved / (5.3e9 * BANDWIDTH_SHARE) * 1e3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cortex-a53-2gb", "cortex-a53"),
        ("mid-range-a76", "cortex-a76"),
        ("raspberry-pi-5", "cortex-a76"),
        ("snapdragon-x-elite", "cortex-a76"),
        ("snapdragon-7-gen-4", "armv8.6-i8mm"),
    ],
)
def test_the_core_whose_instructions_a_device_has(name: str, expected: str) -> None:
    assert core(profile.load(name)) == expected


def test_a_graph_is_known_by_what_it_costs(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    again = ir.load(path)
    again.graph[0].name = "renamed"
    weight = again.graph.initializers["w"]
    weight.const_value = ir.tensor(np.zeros((256, 128), np.float32), name="w")
    assert digest(analyse(again, {"rows": 16})) == digest(statistics(path))
    assert digest(statistics(path, rows=17)) != digest(statistics(path))
    assert digest(statistics(linear(tmp_path / "n.onnx", 129))) != digest(statistics(path))


def test_fit_predicts_from_counts_and_says_so(tmp_path: Path) -> None:
    path, file = linear(tmp_path / "m.onnx"), tmp_path / "counts.json"
    write(file, [counted(path, cpu="cortex-a76"), counted(path)])
    verdict = fit(path, "cortex-a53-2gb", dims={"rows": 16}, threads=1, counts=file)
    known, device = coefficients.load(), a53()
    nominal = counted(path).nominal_ms(statistics(path), device, device.cpu, 1)
    ms = nominal * math.exp(known.counted_factor)
    assert verdict.limit("latency").predicted == pytest.approx(ms)
    ends = (ms * math.exp(known.counted.low), ms * math.exp(known.counted.high))
    assert verdict.latency_interval == pytest.approx(ends)
    assert "instructions counted on an emulated cortex-a53" in verdict.predicted_by
    assert "this CPU was never measured" in verdict.predicted_by
    assert sum(layer.ms for layer in verdict.layers) == pytest.approx(ms)
    plain = fit(path, "cortex-a53-2gb", dims={"rows": 16}, threads=1)
    assert "counted" not in plain.predicted_by
    assert plain.limit("latency").predicted != pytest.approx(ms)


def test_measurements_move_what_counts_predict(tmp_path: Path) -> None:
    path, file, measured = linear(tmp_path / "m.onnx"), tmp_path / "counts.json", tmp_path / "phone.csv"
    one = analyse(ir.load(path))  # a measured model's sizes are the model's own
    write(file, [counted(path), counted(path, graph=digest(one))])
    measured.write_text(f"model,latency_ms\n{path},1000\n", encoding="utf-8")
    plain = fit(path, "cortex-a53-2gb", counts=file).limit("latency").predicted
    moved = fit(path, "cortex-a53-2gb", counts=file, measured=measured)
    assert moved.limit("latency").predicted > plain
    assert "re-calibrated by your own measurements" in moved.predicted_by


def test_counts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, file = linear(tmp_path / "m.onnx"), tmp_path / "counts.json"
    write(file, [counted(path)])
    assert read(file) == [counted(path)]
    with pytest.raises(InputError, match=r"cores of raspberry-pi-5 are like cortex-a76"):
        fit(path, "raspberry-pi-5", dims={"rows": 16}, counts=file)
    with pytest.raises(InputError, match="none of this model at these sizes") as caught:
        fit(path, "cortex-a53-2gb", dims={"rows": 17}, counts=file)
    assert "rows=16" in caught.value.advice
    with pytest.raises(InputError, match="ARM cores"):
        fit(path, "desktop-gpu", dims={"rows": 16}, counts=file)
    with pytest.raises(InputError) as caught:
        found([], statistics(path), a53())
    assert "holds nothing" in caught.value.advice


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '[{"model": "m"}]', json.dumps([{"instructions": 1}]), "\xff"],
)
def test_what_is_no_file_of_counts(tmp_path: Path, content: str) -> None:
    file = tmp_path / "counts.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="no file of counts"):
        read(file)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "not-there.json")
    zero = counted(linear(tmp_path / "m.onnx")).model_dump() | {"instructions": 0}
    file.write_text(json.dumps([zero]), encoding="utf-8")
    with pytest.raises(InputError, match="no file of counts"):
        read(file)


def test_a_model_is_predicted_by_the_others() -> None:
    logs = np.array([1.0, 1.0, 2.0, 5.0])
    groups = ["a", "a", "b", "c"]
    assert others_median(groups, logs).tolist() == [3.5, 3.5, 1.0, 1.0]
    rows = [
        Row(name, "", cpu, "onnx", "w8a8", 1.0, np.zeros(1)) for name, cpu in zip(groups, "xyxy", strict=True)
    ]
    assert other_cpus_median(rows, groups, logs).tolist() == [5.0, 2.0, 3.0, 1.5]


def test_measured_models_are_compared_with_their_counts_on_the_right_core(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    known = statistics(path)
    (chip,) = set(cpus()) - {A78_BOARD}
    graphs = {(name, "part"): Graph(known, doubtful=False) for name in ("m", "uncounted")}
    rows = [
        Row(name, "part", device, "onnx", scheme, 5.0, np.zeros(1))
        for name, device, scheme in (
            ("m", A78_BOARD, "w8a8"),
            ("m", chip, "w8a8"),
            ("m", chip, "float"),
            ("uncounted", chip, "w8a8"),
        )
    ]
    counts = [
        counted(path, model="m/part", cpu="cortex-a76", instructions=9_000_000),
        counted(path, model="m/part", cpu="armv8.6-i8mm"),
        counted(path, model="m/part", cpu="cortex-a53", instructions=1),
    ]
    found, logs = counted_logs(Measurements(graphs, [], rows), counts)
    assert found == rows[:2]
    for row, count, log in zip(found, counts, logs, strict=False):
        device = cpus()[row.device]
        nominal = count.nominal_ms(as_int8(known), device, device.cpu, CPU_THREADS)
        assert log == pytest.approx(math.log(5.0 / nominal))
