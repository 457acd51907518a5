"""Static int8: the graph computes what numpy computes on integers, and clips nothing at its outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.errors import InputError
from openglm.passes.contract import Applied, Context
from openglm.passes.rewriting import constant
from openglm.passes.static_wi8_ai8 import StaticInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


def initializer(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()  # type: ignore[union-attr, return-value]


def integers(x: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.float32, int]:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    zero = int(np.rint(-low / scale))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, zero


def weights(rng: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in shapes.items()}


def images(rng: np.random.Generator, channels: int = 4, count: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": rng.normal(size=(2, channels, 8, 8)).astype(np.float32)} for _ in range(count)]


def close(
    run: Run, model: ir.Model, result: ir.Model, feeds: dict[str, np.ndarray], share: float = 0.05
) -> None:
    before, after = run(model, feeds), run(result, feeds)
    for name, array in before.items():
        assert np.abs(after[name] - array).max() <= share * np.abs(array).max()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [7, 8])
def test_a_linear_layer_is_a_product_of_integers(
    build: Build, define: Run, run: Run, apply: Apply, rng: np.random.Generator, per_channel: bool, bits: int
) -> None:
    arrays = weights(rng, w=(64, 96), b=(96,))
    model = build("g (float[n,64] x) => (float[n,96] y) { y = Gemm(x, w, b) }", **arrays)
    seen = rng.normal(size=(16, 64)).astype(np.float32)
    result = apply(StaticInt8(per_channel=per_channel, weight_bits=bits), model, [{"x": seen}]).graph
    x = 2 * rng.normal(size=(5, 64)).astype(np.float32)  # partly beyond the calibrated range
    activation, scale, zero = integers(x, float(seen.min()), float(seen.max()))
    top = 2 ** (bits - 1) - 1
    scales = (np.abs(arrays["w"]).max(axis=0 if per_channel else None) / np.float32(top)).astype(np.float32)
    total = (activation - zero) @ np.rint(arrays["w"] / scales).astype(np.int64)
    total = total + np.rint(arrays["b"] / (scale * scales).astype(np.float64)).astype(np.int64)
    expected = total * (scale * scales)
    np.testing.assert_allclose(define(result, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    if bits == 7:
        np.testing.assert_allclose(run(result, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)


def test_convolutions_stay_in_integers_between_each_other(
    build: Build, define: Run, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    arrays = weights(rng, k1=(6, 4, 1, 1), b1=(6,), k2=(5, 6, 1, 1), k3=(2, 5, 1, 1))
    model = build(
        """g (float[n,4,8,8] x) => (float[n,2,8,8] y) {
            c = Conv(x, k1, b1) r = Relu(c) d = Conv(r, k2) y = Conv(d, k3)
        }""",
        **arrays,
    )
    batches = images(rng)
    result = apply(StaticInt8(), model, batches).graph
    assert "Relu" not in kinds(result)
    seen = np.concatenate([batch["x"] for batch in batches])

    def pointwise(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        return np.einsum("nchw,oc->nohw", x, kernel[:, :, 0, 0])

    inner = np.maximum(pointwise(seen, arrays["k1"]) + arrays["b1"][:, None, None], 0)
    x = batches[0]["x"]
    a, scale, zero = integers(x, float(seen.min()), float(seen.max()))
    scales = np.abs(arrays["k1"]).max(axis=(1, 2, 3)) / np.float32(127)
    kernel = np.rint(arrays["k1"] / scales[:, None, None, None])
    bias = np.rint(arrays["b1"] / (scale * scales))
    total = pointwise((a - zero).astype(float), kernel) + bias[:, None, None]
    first = total * (scale * scales)[:, None, None]
    b, scale, zero = integers(np.maximum(first, 0), 0.0, float(inner.max()))
    assert zero == 0
    scales = np.abs(arrays["k2"]).max(axis=(1, 2, 3)) / np.float32(127)
    second = pointwise(b.astype(float), np.rint(arrays["k2"] / scales[:, None, None, None]))
    second *= (scale * scales)[:, None, None]
    unclipped = pointwise(inner, arrays["k2"])
    c, scale, zero = integers(second, float(unclipped.min()), float(unclipped.max()))
    expected = pointwise((c - zero) * scale, arrays["k3"])
    for found in (define(result, {"x": x})["y"], run(result, {"x": x})["y"]):
        # A value at the middle between two integers may fall to either: a step of `d` at most.
        assert np.abs(found - expected).max() <= 2 * scale * np.abs(arrays["k3"]).sum(1).max()
        assert np.mean(np.abs(found - expected)) <= 0.05 * scale


ACTIVATED = """g (float[n,4,8,8] x) => (float[n,2,a,b] y) {{
    c = Conv(x, k1) r = {0} d = Conv(r, k2) y = Conv(d, k3)
}}"""
LIMITS = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}


@pytest.mark.parametrize(
    ("activation", "limits"), [("Relu", []), ("Clip", ["zero"]), ("Clip", ["zero", "six"])]
)
def test_an_absorbed_activation_leaves_the_same_integers(
    build: Build,
    define: Run,
    apply: Apply,
    rng: np.random.Generator,
    activation: str,
    limits: list[str],
) -> None:
    arrays = weights(rng, k1=(8, 4, 3, 3), k2=(8, 8, 3, 3), k3=(2, 8, 1, 1))
    arrays["k1"] *= 8  # so that some values pass six
    model = build(ACTIVATED.format(f"{activation}({', '.join(['c', *limits])})"), **arrays, **LIMITS)
    batches = images(rng)
    result = apply(StaticInt8(), model, batches).graph
    assert activation not in kinds(result)
    close(define, model, result, batches[0], 0.1)
    # Put back before the quantization, it changes nothing.
    again = result.clone()
    quantize = next(node for node in again.graph if "r_scale" in [v.name for v in node.inputs])
    bounds = [constant(again, name, LIMITS[name]) for name in limits]
    node = ir.node(activation, [quantize.inputs[0], *bounds])
    again.graph.insert_before(quantize, node)
    quantize.replace_input_with(0, node.outputs[0])
    np.testing.assert_array_equal(define(again, batches[0])["y"], define(result, batches[0])["y"])


@pytest.mark.parametrize("activation", ["Relu(c)", "Clip(c, zero, six)", "Clip(c, zero)"])
def test_a_symmetric_range_does_not_cut_at_zero(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, activation: str
) -> None:
    arrays = weights(rng, k1=(8, 4, 3, 3), k2=(8, 8, 3, 3), k3=(2, 8, 1, 1))
    model = build(ACTIVATED.format(activation), **arrays, **LIMITS)
    batches = images(rng)
    result = apply(StaticInt8(symmetric=True), model, batches).graph
    assert activation.split("(")[0] in kinds(result)
    close(run, model, result, batches[0], 0.1)


def test_a_clip_with_a_computed_bound_stays(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,4,8,8] x, float top) => (float[n,2,8,8] y) {
            c = Conv(x, k1) r = Clip(c, zero, top) d = Conv(r, k2) y = Conv(d, k3)
        }""",
        **weights(rng, k1=(8, 4, 1, 1), k2=(8, 8, 1, 1), k3=(2, 8, 1, 1)), zero=np.array(0, np.float32),
    )  # fmt: skip
    batches = [batch | {"top": np.array(2, np.float32)} for batch in images(rng)]
    result = apply(StaticInt8(), model, batches).graph
    assert "Clip" in kinds(result)
    close(run, model, result, batches[0] | {"top": np.array(0.25, np.float32)}, 0.1)


RESIDUAL = """g (float[n,8,8,8] x) => (float[n,3] y) {
    c = Conv <pads=[1,1,1,1]> (x, k1, b1) r = Relu(c)
    d = Conv <pads=[1,1,1,1], group=8> (r, depthwise) s = Add(d, r) t = Relu(s)
    m = MaxPool <kernel_shape=[2,2], strides=[2,2]> (t)
    e = Conv (m, k2) f = Concat <axis=1> (e, m)
    g = GlobalAveragePool(f) h = Flatten(g) y = Gemm(h, w, b)
}"""


@pytest.mark.parametrize(
    "config",
    [
        StaticInt8(),
        StaticInt8(method="percentile", percentile=99.999),
        StaticInt8(method="entropy"),
        StaticInt8(symmetric=True),
        StaticInt8(per_channel=False),
        StaticInt8(weight_bits=7),
    ],
    ids=lambda config: str(config.code),
)
def test_residuals_pools_and_concatenations_stay_in_integers(
    build: Build, run: Run, define: Run, apply: Apply, rng: np.random.Generator, config: StaticInt8
) -> None:
    arrays = weights(
        rng, k1=(8, 8, 3, 3), b1=(8,), depthwise=(8, 1, 3, 3), k2=(8, 8, 1, 1), w=(16, 300), b=(300,)
    )
    model = build(RESIDUAL.replace("n,3]", "n,300]"), **arrays)
    batches = images(rng, 8, 8)
    result = apply(config, model, batches).graph
    close(run, model, result, batches[0], 0.15 if config.method == "entropy" else 0.1)
    integer = define(result, batches[0])["y"]
    assert np.abs(run(result, batches[0])["y"] - integer).max() <= 0.02 * np.abs(integer).max()
    pool = next(node for node in result.graph if node.op_type == "MaxPool")
    before, after = pool.inputs[0].producer(), next(iter(pool.outputs[0].uses())).node
    assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
    for index in (1, 2):
        first, second = (initializer(result, str(node.inputs[index].name)) for node in (before, after))
        assert first == second
    for node in result.graph:
        if node.op_type in ("Conv", "Add", "Concat", "MaxPool", "GlobalAveragePool"):
            data = node.inputs[:2]
            assert all(value.producer().op_type == "DequantizeLinear" for value in data), node.op_type
            assert node.outputs[0].consumers()[0].op_type in ("QuantizeLinear", "Relu")


@pytest.mark.parametrize(
    "end",
    [
        "y = Conv(r, k2)",
        "p = Conv(r, k2) y = Relu(p)",
        "p = Conv(r, k2) y = Add(p, p)",
        "p = Conv(r, k2) y = Sigmoid(p)",
        "p = Conv(r, k2) y = Resize(p, , one)",
    ],
)
def test_outputs_beyond_the_calibrated_range_are_not_clipped(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, end: str
) -> None:
    model = build(
        f"g (float[n,4,8,8] x) => (float[n,8,8,8] y) {{ c = Conv(x, k1) r = Sigmoid(c) {end} }}",
        **weights(rng, k1=(8, 4, 1, 1), k2=(8, 8, 1, 1)), one=np.ones(4, np.float32),
    )  # fmt: skip
    batches = [{"x": batch["x"] / 100} for batch in images(rng)]
    result = apply(StaticInt8(), model, batches).graph
    for node in result.graph:
        if node.outputs[0].name in ("p", "y"):
            assert "QuantizeLinear" not in [user.op_type for user in node.outputs[0].consumers()]


def test_logits_of_a_linear_head_are_not_clipped(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    arrays = weights(rng, w=(64, 64))
    model = build("g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", **arrays)
    x = rng.uniform(-1, 1, size=(16, 64)).astype(np.float32)
    result = apply(StaticInt8(), model, [{"x": x}]).graph
    highest = np.sign(arrays["w"][:, :1].T)  # no input within the range gives more
    assert run(result, {"x": highest})["y"][0, 0] == pytest.approx(np.abs(arrays["w"][:, 0]).sum(), rel=0.05)
    assert run(model, {"x": x})["y"].max() < 0.8 * np.abs(arrays["w"][:, 0]).sum()


def test_an_intermediate_convolution_may_be_an_output_and_feed_float_operators(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,4,8,8] x) => (float[n,2,8,8] y, float[n,8,8,8] c, float[n,8,8,8] e) {
            c = Conv(x, k1) r = Relu(c) e = Exp(c) s = Sqrt(r) d = Conv(r, k2) f = Conv(d, k4) g = Neg(r)
            u = Add(f, g) v = Add(u, s) y = Conv(v, k3)
        }""",
        **weights(rng, k1=(8, 4, 1, 1), k2=(8, 8, 1, 1), k4=(8, 8, 1, 1), k3=(2, 8, 1, 1)),
    )
    batches = images(rng)
    result = apply(StaticInt8(), model, batches).graph
    before, after = run(model, batches[0]), run(result, batches[0])
    np.testing.assert_allclose(after["c"], before["c"], rtol=1e-4, atol=1e-5)  # float to the output
    np.testing.assert_allclose(after["e"], before["e"], rtol=1e-4, atol=1e-5)
    close(run, model, result, batches[0], 0.1)


def test_channels_of_zeros_and_of_bias_alone(
    build: Build, run: Run, define: Run, apply: Apply, rng: np.random.Generator
) -> None:
    arrays = weights(rng, k1=(8, 4, 1, 1), b1=(8,), k2=(8, 8, 1, 1), k3=(2, 8, 1, 1))
    arrays["k1"][0] = 0
    arrays["b1"][0] = 0.013
    arrays["k1"][1] = 1e-12
    arrays["b1"][1] = 1.7
    arrays["k1"][2] = arrays["b1"][2] = 0
    arrays["k1"][3] = arrays["b1"][3] = 1e-39
    model = build(
        "g (float[n,4,8,8] x) => (float[n,2,8,8] y) { c = Conv(x, k1, b1) d = Conv(c, k2) y = Conv(d, k3) }",
        **arrays,
    )
    batches = images(rng)
    result = apply(StaticInt8(), model, batches).graph
    steps = initializer(result, "k1_scale").astype(float) * initializer(result, "x_scale")
    assert (np.abs(arrays["b1"]) / steps).max() < 2**31
    assert steps[0] < 1e-6  # fine enough for the bias of the channel of zeros
    for find in (run, define):
        close(find, model, result, batches[0], 0.1)


@pytest.mark.parametrize("bias", [(1,), (1, 64), ()])
def test_a_bias_that_is_broadcast_stays_float(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator, bias: tuple[int, ...]
) -> None:
    model = build(
        "g (float[n,64] x) => (float[n,64] y) { y = Gemm(x, w, b) }", **weights(rng, w=(64, 64), b=bias)
    )
    x = {"x": rng.normal(size=(8, 64)).astype(np.float32)}
    close(run, model, apply(StaticInt8(), model, [x]).graph, x)


def test_shared_weights_are_stored_once(build: Build, apply: Apply, rng: np.random.Generator) -> None:
    model = build(
        """g (float[n,8,8,8] x) => (float[n,8,8,8] y) {
            c = Conv(x, k) d = Conv(c, k) e = Conv(d, k) y = Exp(e)
        }""",
        **weights(rng, k=(8, 8, 3, 3)),
    )
    stored = apply(StaticInt8(), model, images(rng, 8)).graph.graph.initializers
    assert [name for name in stored if name.startswith("k_int8")] == ["k_int8"]
    assert "k" not in stored


def test_constant_nodes_and_functions_are_looked_through(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    numbers = ",".join(f"{value:.4f}" for value in rng.normal(size=8 * 4))
    model = build(
        f"""g (float[n,4,8,8] x) => (float[n,8,8,8] y) {{
            k = Constant <value = float[8,4,1,1] {{{numbers}}}> () r = own.Layer(x, k) y = Conv(r, l)
        }}""",
        functions="""<domain: "own", opset_import: ["" : 20]>
            Layer (a, b) => (c) { d = Conv(a, b) c = Relu(d) }""",
        **weights(rng, l=(8, 8, 1, 1)),
    )
    batches = images(rng)
    result = apply(StaticInt8(), model, batches)
    assert result.changed
    close(run, model, result.graph, batches[0], 0.1)


def test_a_picture_with_three_channels_enters_a_float_convolution(
    build: Build, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        """g (float[n,3,8,8] x) => (float[n,2,8,8] y) {
            c = Conv(x, k1) r = Relu(c) d = Conv(r, k2) y = Conv(d, k3)
        }""",
        **weights(rng, k1=(8, 3, 1, 1), k2=(8, 8, 1, 1), k3=(2, 8, 1, 1)),
    )
    result = apply(StaticInt8(), model, images(rng, 3)).graph
    assert result.graph[0].op_type == "Conv"
    assert kinds(result).count("QuantizeLinear") == 2


def test_embedding_tables_become_rows_unless_they_shall_not(
    build: Build, run: Run, apply: Apply, rng: np.random.Generator
) -> None:
    model = build(
        "g (int64[n] i) => (float[n,64] y) { x = Gather(t, i) y = MatMul(x, w) }",
        **weights(rng, t=(100, 64), w=(64, 64)),
    )
    batch = {"i": np.arange(100)}
    result = apply(StaticInt8(), model, [batch]).graph
    assert "t" not in result.graph.initializers
    close(run, model, result, batch, 0.1)
    assert "t" in apply(StaticInt8(embeddings=False), model, [batch]).graph.graph.initializers


def test_no_layer_and_quantized_layers_are_left_alone(
    build: Build, apply: Apply, rng: np.random.Generator
) -> None:
    empty = build("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    assert apply(StaticInt8(), empty, []).notes == ("There is no layer to quantize.",)
    model = build("g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", **weights(rng, w=(64, 64)))
    batch = {"x": np.ones((2, 64), np.float32)}
    once = apply(StaticInt8(), model, [batch])
    assert once.changed
    assert not apply(StaticInt8(), once.graph, [batch]).changed


def test_bad_data_is_an_input_error(build: Build, rng: np.random.Generator) -> None:
    model = build("g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", **weights(rng, w=(64, 64)))
    for batches, reason in (
        (None, "needs calibration data"),
        ([], "no calibration data"),
        ([{"x": np.zeros((0, 64), np.float32)}], "no calibration data"),
        ([{"x": np.full((1, 64), np.nan, np.float32)}], "NaN"),
    ):
        for symmetric in (True, False):
            context = Context(calibration=None if batches is None else lambda batches=batches: batches)
            with pytest.raises(InputError, match=reason):
                StaticInt8(symmetric=symmetric).apply(model, context)


def test_the_data_is_read_once_and_progress_told(build: Build, rng: np.random.Generator) -> None:
    model = build("g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", **weights(rng, w=(64, 64)))
    seen: list[int] = []
    batches = [{"x": rng.normal(size=(2, 64)).astype(np.float32)} for _ in range(3)]
    StaticInt8().apply(model, Context(calibration=lambda: iter(batches), progress=seen.append))
    assert seen == [1, 2, 3]
