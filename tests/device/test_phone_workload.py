"""Kernels of graphs whose fusions and sizes can be worked out by hand, and what their terms add up to."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from openglm.device.phone import costs
from openglm.device.phone.fallback import falls_back
from openglm.device.phone.workload import Kernel, boundary_elements, kernels
from openglm.model.analysis.shapes import Shapes, resolve


def resolved(graph: str, **weights: tuple[int, ...]) -> Shapes:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {graph}')
    for name, shape in weights.items():
        size = 1
        for each in shape:
            size *= each
        model.graph.initializer.append(
            onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, shape, [0.5] * size)
        )
    return resolve(ir.from_proto(model))


def made(graph: str, **weights: tuple[int, ...]) -> list[Kernel]:
    return kernels(resolved(graph, **weights))


def test_activations_and_biases_run_inside_the_product() -> None:
    found = made(
        "(float[1, 32, 8, 8] x) => (float[1, 64, 8, 8] y)"
        " { c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)"
        "   b = Add(c, v)  y = Relu(b) }",
        w=(64, 32, 3, 3),
        v=(1, 64, 1, 1),
    )
    assert [kernel.kind for kernel in found] == ["conv"]
    assert found[0].macs == found[0].padded == 64 * 32 * 9 * 64
    assert found[0].weights == 64 * 32 * 9
    assert (found[0].read, found[0].written) == (32 * 64, 64 * 64)


def test_a_residual_keeps_what_two_read_apart() -> None:
    found = made(
        "(float[1, 32, 8, 8] x) => (float[1, 32, 8, 8] y)"
        " { c = Conv(x, w)  r = Relu(c)  s = Add(r, x)  y = Relu(s) }",
        w=(32, 32, 1, 1),
    )
    assert [kernel.kind for kernel in found] == ["conv_1x1", "residual"]


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x)  y = Mul(x, s)",
        "e = Erf(x)  p = Add(e, one)  m = Mul(x, p)  y = Mul(m, one)",
    ],
)
def test_an_activation_written_out_is_one_kernel(body: str) -> None:
    found = made(f"(float[1, 16, 64] x) => (float[1, 16, 64] y) {{ {body} }}", one=(1,))
    assert [kernel.kind for kernel in found] in (["curve"], ["gelu"])


def test_channels_are_padded_to_blocks_and_pictures_packed() -> None:
    wide = made("(float[1, 33, 8, 8] x) => (float[1, 33, 8, 8] y) { y = Sigmoid(x) }")[0]
    assert wide.read == 64 * 64
    picture = made("(float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Sigmoid(x) }")[0]
    assert picture.read == 4 * 64
    narrow = made("(float[1, 40, 8, 8] x) => (float[1, 8, 8, 8] y) { y = Conv(x, w) }", w=(8, 40, 1, 1))[0]
    assert narrow.macs == 64 * 40 * 8
    assert narrow.padded == 64 * 64 * 32


def test_images_are_padded_to_tiles_of_eight_rows_and_columns() -> None:
    found = made("(float[1, 32, 9, 7] x) => (float[1, 32, 9, 7] y) { y = Conv(x, w) }", w=(32, 32, 1, 1))[0]
    assert (found.macs, found.padded) == (32 * 32 * 9 * 7, 32 * 32 * 16 * 8)
    assert found.read == found.written == 32 * 16 * 8
    pooled = made("(float[1, 32, 1, 1] x) => (float[1, 32, 1, 1] y) { y = Conv(x, w) }", w=(32, 32, 1, 1))[0]
    assert pooled.padded == pooled.macs


def test_a_large_window_costs_what_it_reads() -> None:
    graph = (
        "(float[1, 32, 8, 8] x) => (float[1, 32, 8, 8] y)"
        " {{ y = MaxPool <kernel_shape = [{0}, {0}], pads = [{1}, {1}, {1}, {1}]> (x) }}"
    )
    small, large = made(graph.format(3, 1))[0], made(graph.format(5, 2))[0]
    assert (small.kind, large.kind, large.padded) == ("pool", "pool_large", 25 * 32 * 64)
    passes = costs.terms([large], 0, "w8a8", "qnn_dlc")["pass:pool_large"]
    assert passes == pytest.approx(costs.ELEMENT_BYTE_MS * 25 * 32 * 64)


@pytest.mark.parametrize(("mode", "kind"), [("nearest", "resize"), ("linear", "resize_linear")])
def test_interpolation_is_told_from_repetition(mode: str, kind: str) -> None:
    graph = (
        "(float[1, 32, 8, 8] x) => (float[1, 32, 16, 16] y)"
        f' <float[4] s = {{1, 1, 2, 2}}> {{ y = Resize <mode = "{mode}"> (x, , s) }}'
    )
    assert [kernel.kind for kernel in made(graph)] == [kind]


def test_every_group_of_a_grouped_convolution_starts_anew() -> None:
    graph = "(float[1, 64, 8, 8] x) => (float[1, 64, 8, 8] y) { y = Conv <group = 4> (x, w) }"
    found = made(graph, w=(64, 16, 1, 1))
    assert [(kernel.kind, kernel.groups) for kernel in found] == [("grouped", 4)]
    assert costs.terms(found, 0, "float", "qnn_dlc")["start:groups"] == pytest.approx(4 * costs.START_MS)
    depthwise = made(graph.replace("= 4", "= 64"), w=(64, 1, 1, 1))
    assert "start:groups" not in costs.terms(depthwise, 0, "float", "qnn_dlc")


def test_what_depends_on_weights_alone_is_folded() -> None:
    found = made("(float[4, 8] x) => (float[4, 16] y) { t = Transpose(w)  y = MatMul(x, t) }", w=(16, 8))
    assert [kernel.kind for kernel in found] == ["vector_product"]


def test_a_change_of_layout_is_nothing_to_do() -> None:
    graph = (
        "(float[1, 32, 8, 8] x) => (float[1, 8, 8, 32] y)"
        " { t = Transpose <perm = [0, 2, 3, 1]> (x)  y = Exp(t) }"
    )
    assert [kernel.kind for kernel in made(graph)] == ["curve"]
    heads = "(float[1, 8, 4, 32] x) => (float[1, 4, 8, 32] y) { y = Transpose <perm = [0, 2, 1, 3]> (x) }"
    assert [kernel.kind for kernel in made(heads)] == ["transpose"]


def test_products_are_told_apart() -> None:
    found = made(
        "(float[1, 64, 16] x) => (float[1, 64, 64] y)"
        " { q = MatMul(x, a)  t = Transpose <perm = [0, 2, 1]> (x)  s = MatMul(q, t)  y = Softmax(s) }",
        a=(16, 16),
    )
    assert [kernel.kind for kernel in found] == ["linear", "transpose", "attention", "softmax"]


def test_unknown_shapes_count_nothing_and_do_not_fail() -> None:
    found = made("(float[4] x) => (float[k] y) { i = NonZero(x)  g = Cast <to = 1> (i)  y = Exp(g) }")
    assert all(kernel.macs == 0 for kernel in found)


def test_terms_add_up_and_every_name_is_known() -> None:
    shapes = resolved(
        "(float[1, 3, 32, 32] x) => (float[1, 32, 32, 32] y)"
        " { c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)  s = Sigmoid(c)  m = Mul(c, s)"
        "   d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 32> (m, v)  y = Add(d, m) }",
        w=(32, 3, 3, 3),
        v=(32, 1, 3, 3),
    )
    for scheme in costs.SCHEMES:
        found = costs.terms(kernels(shapes), boundary_elements(shapes), scheme, "qnn_dlc")
        assert set(found) <= set(costs.NAMES)
        assert all(value >= 0 for value in found.values())
        assert found["product:conv_first"] == pytest.approx(costs.PRODUCT_MS[scheme] * 32 * 32 * 32 * 27)
    assert {costs.group(name) for name in costs.NAMES} == set(costs.GROUPS)


def test_int8_is_never_dearer_than_float() -> None:
    shapes = resolved("(float[1, 64, 256] x) => (float[1, 64, 512] y) { y = MatMul(x, w) }", w=(256, 512))
    sums = [
        sum(costs.terms(kernels(shapes), boundary_elements(shapes), scheme, "tflite").values())
        for scheme in ("w8a8", "w8a16", "float")
    ]
    assert sums == sorted(sums)


def test_fallback() -> None:
    gelu = Kernel("g", "Erf", "gelu", 0, 0, 0, 1000, 1000)
    volume = Kernel("c", "Conv", "conv_3d", 1000, 1000, 0, 1000, 1000)
    assert falls_back(gelu, "onnx", "w8a8")
    assert not falls_back(gelu, "onnx", "float")
    assert not falls_back(gelu, "qnn_dlc", "w8a8")
    assert falls_back(volume, "tflite", "float")
    assert not falls_back(volume, "onnx", "float")
