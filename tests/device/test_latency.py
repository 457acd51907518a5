"""The roofline on layers whose time can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.device import latency as roofline
from openglm.device.latency import predict
from openglm.device.profile import Device, Unit, figures, load
from openglm.model.analysis.statistics import Layer, Statistics, analyse


def device(**changes: Any) -> Device:
    """A device of round figures: 100 GFLOPS on 4 cores at full efficiency, 10 GB/s."""
    base = load("cortex-a53-2gb")
    cpu = Unit(
        name="cpu", kind="cpu", cores=4, peak_gops={"fp32": 100, "int8": 400}, efficiency=1.0, power_w=2.0
    )
    npu = Unit(name="npu", kind="npu", cores=1, peak_gops={"int8": 4000}, efficiency=0.5, power_w=1.0)
    made = base.model_copy(
        update={
            "name": "round",
            "units": (cpu, npu),
            "memory": base.memory.model_copy(update={"bandwidth_gb_s": 10.0}),
            **changes,
        }
    )
    return made.model_copy(update={"sources": dict.fromkeys(figures(made), "test")})


def statistics(*layers: Layer) -> Statistics:
    model = '<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    return replace(analyse(ir.from_proto(onnx.parser.parse_model(model))), layers=layers)


def layer(**changes: Any) -> Layer:
    base = Layer("a", "a", "MatMul", 0, 0, 0, 0, 0, "fp32", (1000,))
    return replace(base, **changes)


OVERHEAD_MS = roofline.OVERHEAD_OPERATIONS / 25e9 * 1000  # one core of the four


def one(item: Layer, threads: int = 4, unit: int = 0) -> roofline.LayerLatency:
    target = device()
    made = predict(statistics(item), target, target.units[unit], threads)
    assert made is not None
    assert made.ms == pytest.approx(made.layers[0].ms + roofline.CALL_MS[made.unit.kind])
    return made.layers[0]


def test_arithmetic_bounds_a_large_product() -> None:
    found = one(layer(macs=500_000_000, read_bytes=1000, write_bytes=1000))
    assert found.ms == pytest.approx(10 + OVERHEAD_MS)  # 10^9 operations at 100 a nanosecond
    assert found.bound == "compute"
    assert one(layer(macs=500_000_000), threads=1).ms == pytest.approx(40 + OVERHEAD_MS)
    assert one(layer(macs=500_000_000), threads=64).ms == pytest.approx(10 + OVERHEAD_MS)
    assert one(layer(macs=500_000_000, precision="int8")).ms == pytest.approx(2.5 + OVERHEAD_MS)


def test_memory_bounds_a_large_copy() -> None:
    found = one(layer(op_type="Transpose", read_bytes=30_000_000, write_bytes=30_000_000))
    assert found.ms == pytest.approx(60e6 / (10e9 * roofline.BANDWIDTH_SHARE) * 1000 + OVERHEAD_MS)
    assert found.bound == "memory"


def test_a_small_operator_is_bound_by_its_start() -> None:
    assert one(layer(macs=1000, read_bytes=8)).bound == "overhead"


def test_what_does_not_run_takes_no_time() -> None:
    assert one(layer(op_type="Reshape")).ms == 0


def test_a_depthwise_convolution_is_less_efficient() -> None:
    narrow = one(layer(op_type="Conv", macs=9_000_000, shape=(1_000_000,)))
    wide = one(layer(op_type="Conv", macs=9_000_000, shape=(10_000,)))
    assert narrow.ms - OVERHEAD_MS == pytest.approx((wide.ms - OVERHEAD_MS) / roofline.NARROW_SHARE)


def test_four_bit_weights_compute_in_float() -> None:
    found = one(layer(op_type="MatMulNBits", macs=500_000_000, precision="int4w"))
    assert found.ms == pytest.approx(10 / roofline.UNPACKING_SHARE + OVERHEAD_MS)


def test_a_unit_without_the_precision_predicts_nothing() -> None:
    target = device()
    assert predict(statistics(layer(macs=1000)), target, target.units[1], 4) is None
    assert one(layer(macs=10**9, precision="int8"), unit=1).ms == pytest.approx(1 + OVERHEAD_MS)


def test_shares_and_sum() -> None:
    target = device()
    made = predict(
        statistics(layer(macs=500_000_000), layer(op_type="Transpose", read_bytes=60_000_000)),
        target,
        target.cpu,
        4,
    )
    assert made is not None
    assert sum(made.shares.values()) == pytest.approx(1)
    assert made.shares["compute"] == pytest.approx(0.5, abs=0.01)
    assert made.ms == pytest.approx(sum(item.ms for item in made.layers))
