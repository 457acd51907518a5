"""NCNN: texts of any length in one graph, integers, broken files, and layers that it does not have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.sources import onnx_file
from openglm.runtimes import batches
from openglm.runtimes.engine import Source, engine
from openglm.runtimes.ncnn import NCNN
from openglm.runtimes.ncnn_files import read_param, read_weights
from openglm.runtimes.onnxruntime import Runner
from openglm.targets.proof import prove

LENGTHS = (1, 7, 16, 40)


@pytest.fixture(scope="module")
def encoder(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    from openglm import AutoModel

    path = tmp_path_factory.mktemp("encoder") / "model.onnx"
    onnx_file.write(AutoModel.from_pretrained(str(bert_folder)).graph, path)
    calibration = path.with_name("calibration.npz")
    batches.save([text(path, 1, length) for length in LENGTHS], calibration)
    return Source(path, path, {"sequence": [16, 64]}, calibration)


def text(path: Path, rows: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    given = {}
    for value in onnx_file.read(path).graph.inputs:
        high = 40 if value.name == "input_ids" else 1
        given[str(value.name)] = rng.integers(0, high, (rows, length), dtype=np.int64)
    mask = np.ones((rows, length), np.int64)
    mask[0, length - length // 3 :] = 0
    return {**given, "attention_mask": mask}


def size(target: Path) -> int:
    return sum(file.stat().st_size for file in NCNN().files(target))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_texts_of_any_length_in_one_graph(encoder: Source, tmp_path: Path, precision: Precision) -> None:
    target = tmp_path / "model.ncnn.param"
    engine("ncnn").convert(encoder, target, precision)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        file.name for file in NCNN().files(target)
    )
    loaded, reference = engine("ncnn").load(target, threads=1), Runner(encoder.graph, threads=1)
    inputs = [text(encoder.graph, rows, length) for rows in (1, 3) for length in LENGTHS]
    proof = prove([loaded.run(given) for given in inputs], [reference.run(given) for given in inputs])
    assert proof.within(precision), proof
    with pytest.raises(InputError, match="sequence 64"):
        loaded.run(text(encoder.graph, 1, 65))
    shares = {"fp32": 1.1, "fp16": 0.6, "int8": 0.45}
    assert size(target) < shares[precision] * encoder.graph.stat().st_size


def test_integers_are_what_the_weights_round_to(encoder: Source, tmp_path: Path) -> None:
    float_target, target = tmp_path / "float.ncnn.param", tmp_path / "whole.ncnn.param"
    engine("ncnn").convert(encoder, float_target, "fp32")
    engine("ncnn").convert(encoder, target, "int8")
    plain, whole = read_param(float_target), read_param(target)
    read_weights(plain, float_target.with_suffix(".bin"))
    products = {layer.name: layer for layer in plain if layer.kind == "Gemm"}
    content = target.with_suffix(".bin").read_bytes()
    quantized = [layer for layer in whole if layer.kind == "Gemm" and layer.number(18)]
    assert quantized
    for layer in quantized:
        array = products[layer.name].weights[0].array.reshape(layer.number(8), layer.number(9))
        blocks = array.reshape(len(array), -1, 64)
        scales = 127 / np.abs(blocks).max(-1, keepdims=True)
        rounded = np.rint(blocks * scales).astype(np.int8)
        place = content.find(rounded.tobytes())
        assert place >= 0, layer.name
        assert scales.astype(np.float32).tobytes() in content[place + rounded.nbytes :]


def _mobile(path: Path) -> Source:
    """Convolutions of all kinds: plain, by 1, by groups, one a channel, with an odd size."""
    import torch
    from torch import nn

    from openglm.model.sources.module import export

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.PReLU(16),
        nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1, groups=4), nn.ReLU(),
        nn.Conv2d(32, 24, 1), nn.Flatten(), nn.Linear(24 * 7 * 5, 10),
    )  # fmt: skip
    example = {"input": torch.randn(1, 3, 13, 9)}
    onnx_file.write(export(net.eval(), example, output_names=["logits"]), path)
    calibration = path.with_suffix(".npz")
    rng = np.random.default_rng(0)
    batches.save(
        [{"input": rng.normal(size=(2, 3, 13, 9)).astype(np.float32)} for _ in range(4)], calibration
    )
    return Source(path, path, {}, calibration)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_convolutions(tmp_path: Path, precision: Precision) -> None:
    source = _mobile(tmp_path / "net.onnx")
    target = tmp_path / "model.ncnn.param"
    engine("ncnn").convert(source, target, precision)
    loaded, reference = engine("ncnn").load(target, threads=2), Runner(source.graph, threads=1)
    rng = np.random.default_rng(1)
    inputs = [{"input": rng.normal(size=(rows, 3, 13, 9)).astype(np.float32)} for rows in (1, 4)]
    proof = prove([loaded.run(given) for given in inputs], [reference.run(given) for given in inputs])
    assert proof.within(precision), proof
    if precision == "int8":
        kinds = [layer.kind for layer in read_param(target) if layer.number(8)]
        assert kinds == ["Convolution", "ConvolutionDepthWise", "Convolution", "Convolution", "InnerProduct"]
        assert size(target) < 0.5 * source.graph.stat().st_size


def test_without_inputs_to_calibrate_on_convolutions_stay_float(tmp_path: Path) -> None:
    source = _mobile(tmp_path / "net.onnx")
    with pytest.raises(InputError, match="no layer here that takes int8") as caught:
        engine("ncnn").convert(Source(source.graph, source.plain), tmp_path / "model.ncnn.param", "int8")
    assert "calibrate" in caught.value.advice


@pytest.fixture(scope="module")
def converted(conv_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("converted") / "model.ncnn.param"
    engine("ncnn").convert(Source(conv_file, conv_file), target, "fp32")
    return target


@pytest.fixture
def copy(converted: Path, tmp_path: Path) -> Path:
    for file in NCNN().files(converted):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / converted.name


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
def test_a_cut_file_is_told_of(copy: Path, place: int, share: float) -> None:
    file = NCNN().files(copy)[place]
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"NCNN cannot load model\.ncnn\.param"):
        engine("ncnn").load(copy)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_missing_file_is_told_of(copy: Path, place: int) -> None:
    NCNN().files(copy)[place].unlink()
    with pytest.raises(InputError, match=r"NCNN cannot load model\.ncnn\.param"):
        engine("ncnn").load(copy)


def test_a_layer_of_another_engine_is_told_of(copy: Path) -> None:
    content = copy.read_text()
    copy.write_text(re.sub("InnerProduct", "OuterProduct", content))
    with pytest.raises(InputError, match="does not take it"):
        engine("ncnn").load(copy)


def test_threads_that_are_none(copy: Path) -> None:
    with pytest.raises(InputError, match="0 threads"):
        engine("ncnn").load(copy, threads=0)


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], Source]:
    """A graph written in ONNX's own notation."""

    def built(graph: str) -> Source:
        text = f'<ir_version: 10, opset_import: ["": 20]> {graph}'
        path = tmp_path / "graph.onnx"
        onnx_file.write(ir.from_proto(onnx.parser.parse_model(text)), path)
        return Source(path, path)

    return built


def test_a_layer_that_ncnn_has_not_is_named(build: Callable[[str], Source], tmp_path: Path) -> None:
    source = build("g (float[n,4,6] x) => (int64[n,4,2] y) <int64[1] k = {2}> { v, y = TopK(x, k) }")
    with pytest.raises(InputError, match=r"it has no [^;]*topk"):
        engine("ncnn").convert(source, tmp_path / "model.ncnn.param", "fp32")
    assert not (tmp_path / "model.ncnn.param").exists()


def test_padding_in_tensorflows_form(build: Callable[[str], Source], tmp_path: Path) -> None:
    """It has all axes, those of none too, and names that Python has not."""
    source = build("""
        g (float[n,4,6,1] x) => (float[n,4,6,2] y)
        <int64[4] start = {0,0,2,0}, int64[4] end = {9,9,9,9}, int64[8] around = {0,0,0,0,0,0,2,0}>
        { cut = Slice(x, start, end)  wide = Pad(cut, around)  y = Concat<axis = 3>(wide, x) }""")
    model = onnx_file.read(source.graph)
    model.graph.inputs[0].name = "serving_default_x:0"
    model.graph.outputs[0].name = "StatefulPartitionedCall:0"
    onnx_file.write(model, source.graph)
    target = tmp_path / "model.ncnn.param"
    engine("ncnn").convert(Source(source.graph, source.graph), target, "fp32")
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 1)).astype(np.float32)
    found = engine("ncnn").load(target, threads=1).run({"serving_default_x:0": x})
    wide = np.pad(x[:, :, 2:], [(0, 0), (0, 0), (0, 2), (0, 0)])
    np.testing.assert_array_equal(found["StatefulPartitionedCall:0"], np.concatenate([wide, x], 3))


QKV = """
    g (int64[n,7] x) => (float[n,2,7,3] y)
    <int64[5] parts = {-1,7,3,2,3}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2},
     int64[1] three = {3}>
    {
        wide = Gather(w, x)
        split = Reshape(wide, parts)
        turned = Transpose<perm = [2,0,3,1,4]>(split)
        a = Slice(turned, zero, one, zero)   q = Squeeze(a, zero)
        b = Slice(turned, one, two, zero)    k = Squeeze(b, zero)
        c = Slice(turned, two, three, zero)  v = Squeeze(c, zero)
        column = Transpose<perm = [0,1,3,2]>(k)
        scores = MatMul(q, column)
        weights = Softmax<axis = -1>(scores)
        y = MatMul(weights, v)
    }"""
CELL = """
    g (float[1,1,6] x, float[2,1,6] state) => (float[2,1,6] next)
    <int64 first = {0}, int64 second = {1}, int64[1] zero = {0}>
    {
        h = Gather<axis = 0>(state, first)
        c = Gather<axis = 0>(state, second)
        u = Gemm(h, w)
        r = Conv(x, kernel)
        t = Gather<axis = 2>(r, first)
        s = Add(t, u)
        d = Tanh(s)
        e = Mul(d, c)
        a = Unsqueeze(d, zero)
        b = Unsqueeze(e, zero)
        next = Concat<axis = 0>(a, b)
    }"""


@pytest.mark.parametrize(
    ("graph", "weights"), [(QKV, {"w": (9, 18)}), (CELL, {"w": (6, 6), "kernel": (6, 1, 6)})]
)
def test_what_is_taken_from_in_front_of_a_batch(
    build: Callable[[str], Source], tmp_path: Path, graph: str, weights: dict[str, tuple[int, ...]]
) -> None:
    """Queries, keys and values of one product; the two states of a recurrent cell."""
    source = build(graph)
    model, rng = onnx.load(source.graph), np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, source.graph)
    engine("ncnn").convert(source, target := tmp_path / "model.ncnn.param", "fp32")
    given = {
        "x": rng.integers(0, 9, (1, 7)) if graph is QKV else rng.normal(size=(1, 1, 6)).astype(np.float32),
        "state": rng.normal(size=(2, 1, 6)).astype(np.float32),
    }
    given = {spec.name: given[spec.name] for spec in source.inputs}
    found = engine("ncnn").load(target, threads=1).run(given)
    for output, truth in Runner(source.graph, threads=1).run(given).items():
        np.testing.assert_allclose(found[output], truth, atol=1e-5)


def test_recurrent_layers_come_through_onnx(tmp_path: Path) -> None:
    import torch
    from torch import nn

    from openglm.model.sources.module import export

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 8, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.gru(x)[0]

    torch.manual_seed(0)
    path, target = tmp_path / "gru.onnx", tmp_path / "model.ncnn.param"
    onnx_file.write(export(Net().eval(), {"x": torch.randn(1, 9, 6)}, output_names=["y"]), path)
    engine("ncnn").convert(Source(path, path), target, "fp32")
    given = {"x": np.random.default_rng(0).normal(size=(3, 9, 6)).astype(np.float32)}
    found, expected = engine("ncnn").load(target, threads=1).run(given), Runner(path, threads=1).run(given)
    np.testing.assert_allclose(found["y"], expected["y"], atol=1e-5)


def test_what_a_bundle_carries_is_open(converted: Path) -> None:
    """Any program of NCNN's loads the two files; the third is JSON."""
    import ncnn

    net = ncnn.Net()
    assert net.load_param(str(converted)) == 0
    assert net.load_model(str(converted.with_suffix(".bin"))) == 0
    (take,) = json.loads(converted.with_name(f"{converted.name}.json").read_text())["takes"]
    assert take == {"name": "pixel_values", "kind": "numbers", "rows": 0}
