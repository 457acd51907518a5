"""Verdicts: what fits, what does not and why, and that they are consistent with each other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.device.advice import MAX_SPEEDUP
from openglm.device.fit import Budget, Verdict, fit
from openglm.device.language import kv_bytes_per_token
from openglm.device.profile import names
from openglm.errors import InputError
from openglm.model.model import Model

A53 = "cortex-a53-2gb"
SIDE = 512


def float_graph(layers: int = 4) -> onnx.ModelProto:
    """A stack of square products with activations between."""
    body = "".join(
        f"h{i} = MatMul({f'r{i - 1}' if i else 'x'}, w{i}) r{i} = Relu(h{i})\n" for i in range(layers)
    )
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[batch, {SIDE}] x)'
        f" => (float[batch, {SIDE}] y) {{ {body} y = Identity(r{layers - 1}) }}"
    )
    weight = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(weight, f"w{i}") for i in range(layers))
    return model


def model_of(proto: onnx.ModelProto, task: str = "generic", **config: int) -> Model:
    graph = ir.from_proto(proto)
    return Model(name="stack", source="test", task=task, export=lambda: graph, config=dict(config))


@pytest.fixture(scope="module")
def stack() -> Model:
    return model_of(float_graph())


def verdict(model: Model, **limits: float) -> Verdict:
    return fit(model, A53, Budget(**limits), dims={"batch": 128})


def test_without_limits_it_fits_and_says_so(stack: Model) -> None:
    found = verdict(stack)
    assert found.fits
    assert found.action == "deploy"
    assert [limit.name for limit in found.limits] == ["latency", "memory", "size", "energy", "load"]
    assert all(limit.ok and limit.predicted > 0 for limit in found.limits)
    # Memory has a limit all the same: what the device leaves to one app.
    assert found.limit("memory").budget == 600
    assert found.limit("latency").budget is None
    assert found.limit("size").predicted == pytest.approx(4 * SIDE * SIDE * 4 / 1e6, rel=0.01)
    assert "never measured" in found.predicted_by
    low, high = found.latency_interval or (0, 0)
    assert low < found.limit("latency").predicted < high


def test_json_keys(stack: Model) -> None:
    record = json.loads(json.dumps(verdict(stack, latency_ms=1).to_json(), allow_nan=False))
    assert {"model", "device", "fits", "limits", "advice"} <= set(record)
    assert {"name", "predicted", "budget", "ok", "unit", "bound"} == set(record["limits"][0])
    assert "layers" not in record
    layers = verdict(stack).to_json(layers=True)["layers"]
    assert sum(layer["ms"] for layer in layers) == pytest.approx(verdict(stack).limit("latency").predicted)


@given(st.floats(0.01, 1e4), st.floats(0.01, 1e4), st.sampled_from(sorted(Budget.model_fields)))
@settings(max_examples=25, deadline=None)
def test_a_smaller_budget_never_fits_more(one: float, other: float, name: str) -> None:
    small, large = sorted((one, other))
    model = STACK
    if verdict(model, **{name: small}).fits:
        assert verdict(model, **{name: large}).fits


STACK = model_of(float_graph(2))


def test_dynamic_int8_is_predicted_faster_and_smaller(stack: Model, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(float_graph(), tmp_path / "f.onnx")
    quantize_dynamic(tmp_path / "f.onnx", tmp_path / "q.onnx")
    before, after = verdict(stack), verdict(model_of(onnx.load(tmp_path / "q.onnx")))
    for name in ("latency", "memory", "size", "energy", "load"):
        assert after.limit(name).predicted < before.limit(name).predicted, name


def test_advice_names_what_would_do(stack: Model) -> None:
    now = verdict(stack)
    size, latency = now.limit("size").predicted, now.limit("latency").predicted
    assert "int8 weights would do" in verdict(stack, size_mb=size * 0.3).advice
    assert "4-bit weights would do" in verdict(stack, size_mb=size * 0.2).advice
    smaller = verdict(stack, size_mb=size * 0.1)
    assert smaller.action == "optimize"
    assert "pruning" in smaller.advice
    assert "which would do" in verdict(stack, latency_ms=latency / 1.1).advice
    both = verdict(stack, latency_ms=latency / 5, size_mb=size * 0.3)
    assert "5.0 times as fast" in both.advice
    assert "30 %" in both.advice
    assert not both.fits


@pytest.mark.parametrize("limit", ["latency_ms", "energy_mj", "size_mb", "load_ms"])
def test_what_no_technique_reaches_is_infeasible(stack: Model, limit: str) -> None:
    now = verdict(stack).limit(limit.rpartition("_")[0]).predicted
    found = verdict(stack, **{limit: now / (2 * MAX_SPEEDUP)})
    assert found.action == "infeasible"
    assert "No known technique" in found.advice


def test_less_memory_than_the_engine_takes_is_infeasible(stack: Model) -> None:
    found = verdict(stack, memory_mb=20)
    assert found.action == "infeasible"
    assert "Even with no weights" in found.advice


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "many"])
@pytest.mark.parametrize("name", sorted(Budget.model_fields))
def test_a_budget_is_above_zero(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        Budget(**{name: value})  # type: ignore[arg-type]


def test_more_threads_are_not_slower(stack: Model) -> None:
    times = [
        fit(stack, A53, dims={"batch": 128}, threads=threads).limit("latency").predicted
        for threads in range(1, 7)
    ]
    assert times == sorted(times, reverse=True)
    assert times[3] == times[5]  # it has four cores
    with pytest.raises(InputError, match="threads"):
        fit(stack, A53, threads=0)


def test_units(stack: Model) -> None:
    phone = "snapdragon-8-gen-3"
    cpu, best = fit(stack, phone), fit(stack, phone, unit="best")
    assert cpu.unit == "cpu"
    assert {unit.kind for unit in cpu.units} == {"cpu", "gpu", "npu"}
    assert best.limit("latency").predicted <= cpu.limit("latency").predicted
    with pytest.raises(InputError, match="no npu"):
        fit(stack, A53, unit="npu")
    with pytest.raises(InputError, match="no unit"):
        fit(stack, A53, unit="tpu")  # type: ignore[arg-type]


def test_bad_dimension_device_and_model(stack: Model) -> None:
    with pytest.raises(InputError, match="batch"):
        fit(stack, A53, dims={"batches": 1})
    with pytest.raises(InputError):
        fit(stack, "cortex-a99")
    with pytest.raises(InputError):
        fit("/nowhere/model.onnx", A53)


def test_every_profile_gives_finite_figures(stack: Model) -> None:
    for name in set(names()) - {"host"}:
        found = fit(stack, name)
        assert all(math.isfinite(limit.predicted) and limit.predicted > 0 for limit in found.limits)
        assert 0 < found.rate.sustained_per_s <= found.rate.burst_per_s


def test_unknown_operators_and_shapes_are_named() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "x" : 1]> g (float[4] x) => (float[k] y)'
        " { i = NonZero(x)  y = x.Mystery(i) }"
    )
    found = fit(model_of(proto), A53)
    assert found.unknown_operators == ["x::Mystery"]
    assert found.unknown_shapes == ["i", "y"]
    assert "lower bound" in found.predicted_by


@pytest.mark.parametrize(
    "graph",
    [
        "(float[2] x) => (float[2] x) { }",
        "(float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }",
        "(float x) => (float[k] y) { y = Relu(x) }",
        "(string[3] x) => (float[k] y) { y = StringNormalizer(x) }",
        "(float[3, 3] x) => (float[k, l] y) { y, m = Dropout(x)  z = Relu(m) }",
        '(float[3, 3] x) => (float[k, l] y) { y = Einsum <equation = "ij,jk,kl->il"> (x, x) }',
        "(float[3, 3] x, float[4, 4] w) => (float[k, l] y) { y = MatMul(x, w) }",
        "(float[3] x, float[4] w) => (float[k] y) { y = Conv(x, w) }",
        "(float[2, n] x) => (float[k, l] y) { s = SequenceConstruct(x)  y = SequenceLength(s) }",
    ],
)
def test_odd_and_malformed_graphs_get_finite_figures(graph: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {graph}')
    found = fit(model_of(proto, "text-generation"), A53)
    json.dumps(found.to_json(layers=True), allow_nan=False)
    assert found.fits


def test_tokens_of_a_language_model() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (int64[batch, sequence] input_ids) => (float[batch, sequence, 1000] logits)
        { h = Gather(table, input_ids)  r = MatMul(h, w)  logits = MatMul(r, head) }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"table": (1000, 256), "w": (256, 256), "head": (256, 1000)}.items():
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    config = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 256}
    assert kv_bytes_per_token(config) == 2 * 2 * 2 * 32 * 4
    rate = fit(model_of(proto, "text-generation", **config), A53).tokens_per_s
    assert rate is not None
    assert rate.prefill_per_s > rate.decode_per_s > 0
    assert rate.context == 128
    assert fit(model_of(proto), A53).tokens_per_s is None


def test_on_a_measured_npu_the_interval_is_learnt(stack: Model) -> None:
    found = fit(stack, "snapdragon-8-elite", unit="npu", runtime="qnn")
    low, high = found.latency_interval or (0, 0)
    assert low < found.limit("latency").predicted < high
    assert "Samsung Galaxy S25" in found.predicted_by
    assert found.runtime == "qnn"
    assert found.not_on_npu == {}
    layers = found.to_json(layers=True)["layers"]
    assert sum(layer["ms"] for layer in layers) == pytest.approx(
        found.limit("latency").predicted, rel=0.2, abs=0.5
    )
    other = fit(stack, "dimensity-9300", unit="npu", runtime="litert")
    assert "never measured" in other.predicted_by
    assert fit(stack, "desktop-gpu").latency_interval is None
    with pytest.raises(InputError, match="no runtime"):
        fit(stack, "snapdragon-8-elite", runtime="qn")  # type: ignore[arg-type]


def test_unknown_shapes_widen_the_interval() -> None:
    body = "m = MatMul(x, x)  i = NonZero(m)  y = Cast <to = 1> ({})"
    head = '<ir_version: 10, opset_import: ["" : 20]> g (float[64, 64] x) => (float[k, l] y)'
    known, unknown = (
        fit(model_of(onnx.parser.parse_model(f"{head} {{ {body.format(source)} }}")), A53) for source in "mi"
    )
    assert unknown.unknown_shapes
    widths = [math.log(found.latency_interval[1] / found.latency_interval[0]) for found in (known, unknown)]  # type: ignore[index]
    assert widths[1] >= widths[0]


def test_own_measurements_move_the_prediction(stack: Model, tmp_path: Path) -> None:
    onnx.save(float_graph(1), tmp_path / "one.onnx")
    onnx.save(float_graph(3), tmp_path / "three.onnx")
    before = verdict(stack)
    rows = ["model,latency_ms"]
    for name in ("one", "three"):
        ms = fit(tmp_path / f"{name}.onnx", A53).limit("latency").predicted
        rows.append(f"{tmp_path / name}.onnx,{3 * ms}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    after = fit(stack, A53, dims={"batch": 128}, measured=tmp_path / "m.csv")
    assert 1 < after.limit("latency").predicted / before.limit("latency").predicted < 3
    assert "your own measurements (models: 2)" in after.predicted_by


def test_a_runtime_that_did_not_take_the_npu_is_told(stack: Model, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Once(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": np.ones((1, SIDE), np.float32)}]

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            return self.left.pop() if self.left else None

    onnx.save(float_graph(2), tmp_path / "f.onnx")
    quantize_static(tmp_path / "f.onnx", tmp_path / "q.onnx", Once())
    model = model_of(onnx.load(tmp_path / "q.onnx"))
    alone = fit(model, "snapdragon-7-gen-4", unit="npu", runtime="onnxruntime")
    assert alone.latency_interval is None
    assert "CPU instead" in alone.predicted_by
    taken = fit(model, "snapdragon-7-gen-4", unit="npu", runtime="qnn")
    assert taken.latency_interval is not None
    assert "Snapdragon 7 Gen 4 QRD" in taken.predicted_by


def test_what_will_not_run_on_the_npu_is_named() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, 3, 8, 32, 32] x) => (float[1, 8, 8, 32, 32] y)
        { y = Conv <kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1]> (x, w) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3, 3), np.float32), "w"))
    found = {
        runtime: fit(model_of(proto), "snapdragon-8-elite", unit="npu", runtime=runtime)
        for runtime in ("litert", "qnn")
    }
    assert found["litert"].not_on_npu == {"Conv": 1}
    assert found["qnn"].not_on_npu == {}
    assert found["litert"].limit("latency").predicted > found["qnn"].limit("latency").predicted
