""".tflite files: the ONNX graph computes what LiteRT does, and broken files are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import openglm
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import AutoModel
from openglm.model.sources import onnx_file
from openglm.model.tflite.reading import read

Arrays = dict[str, np.ndarray]


def inputs(path: Path, rows: int = 1, length: int = 7) -> Arrays:
    """Random ones, some beyond what usual ranges hold."""
    rng = np.random.default_rng(1)
    found: Arrays = {}
    for spec in read(path).inputs:
        shape = [
            rows if size == "batch" else length if isinstance(size, str) else size for size in spec.shape
        ]
        if spec.dtype == "float32":
            found[spec.name] = 2 * rng.standard_normal(shape).astype(np.float32)
        else:
            found[spec.name] = rng.integers(-100 if spec.dtype == "int8" else 0, 10, shape).astype(spec.dtype)
    if path.stem == "operators":
        found["y"] = np.abs(found["y"]) + 0.2
    return found


def in_litert(path: Path, given: Arrays) -> Arrays:
    """What LiteRT itself gives, by the file's signature or by its tensors."""
    interpreter = Interpreter(str(path), num_threads=1)
    if interpreter.get_signature_list():
        found: Arrays = interpreter.get_signature_runner("serving_default")(**given)
        return found
    interpreter.allocate_tensors()
    for item in interpreter.get_input_details():
        interpreter.set_tensor(item["index"], given[item["name"]])
    interpreter.invoke()
    return {item["name"]: interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()}


def in_onnx(path: Path, given: Arrays, folder: Path) -> Arrays:
    model = AutoModel.from_pretrained(path)
    assert all(node.domain == "" for node in model.graph.graph)
    onnx_file.write(model.graph, folder / "net.onnx")
    session = onnxruntime.InferenceSession(folder / "net.onnx")
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, given), strict=True))


@pytest.mark.parametrize("name", ["vision_fp32", "vision_fp16", "text_fp32", "operators"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_graph_computes_the_same(tensorflow_files: Path, tmp_path: Path, name: str, rows: int) -> None:
    path = tensorflow_files / f"{name}.tflite"
    given = inputs(path, rows)
    truth, found = in_litert(path, given), in_onnx(path, given, tmp_path)
    assert found.keys() == truth.keys()
    for output, array in truth.items():
        assert (found[output].shape, found[output].dtype) == (array.shape, array.dtype), output
        scale = max(float(np.abs(array).astype(np.float64).max()), 1.0)
        np.testing.assert_allclose(found[output], array, rtol=0, atol=3e-6 * scale, err_msg=output)


def test_dynamic_range(tensorflow_files: Path, tmp_path: Path) -> None:
    """LiteRT quantizes activations too where only weights are in int8: it rounds more."""
    path = tensorflow_files / "vision_int8.tflite"
    given = inputs(path, 3)
    truth, found = in_litert(path, given), in_onnx(path, given, tmp_path)
    for output, array in truth.items():
        assert np.abs(found[output] - array).max() < 0.02 * np.abs(array).max()
    plain = read(tensorflow_files / "vision_fp32.tflite").subgraphs[0]
    small = analyse(AutoModel.from_pretrained(path).graph)
    whole = analyse(AutoModel.from_pretrained(tensorflow_files / "vision_fp32.tflite").graph)
    assert small.parameters == whole.parameters
    assert small.macs == whole.macs
    assert small.weight_bytes < 0.5 * whole.weight_bytes
    assert whole.weight_bytes == pytest.approx(
        sum(each.data.nbytes for each in plain.tensors if each.data is not None), rel=0.02
    )


def test_static_quantization(tensorflow_files: Path, tmp_path: Path) -> None:
    """The graph takes and gives the integers themselves, and is off by a step at most where it rounds."""
    path = tensorflow_files / "vision_static.tflite"
    given = inputs(path, 3)
    truth, found = in_litert(path, given), in_onnx(path, given, tmp_path)
    assert [spec.dtype for spec in read(path).inputs] == ["int8"]
    for output, array in truth.items():
        assert found[output].dtype == np.int8
        assert np.abs(found[output].astype(int) - array.astype(int)).max() <= 2
        assert np.ptp(array.astype(int)) > 20
    layers = analyse(AutoModel.from_pretrained(path).graph).layers
    assert {layer.precision for layer in layers if layer.op_type == "Conv"} == {"int8"}


def test_what_a_convolution_costs(tensorflow_files: Path) -> None:
    statistics = analyse(AutoModel.from_pretrained(tensorflow_files / "vision_fp32.tflite").graph)
    convs = sorted(layer.macs for layer in statistics.layers if layer.op_type == "Conv")
    # Kernel, channels in and out, places: depthwise over 8 by 8, grouped over 6 by 6, dilated over 16 by 16.
    assert convs == [9 * 8 * 64, 9 * 4 * 16 * 36, 9 * 3 * 8 * 256]
    assert statistics.unknown_operators == ()


def test_few_transposes(tensorflow_files: Path) -> None:
    """Layers that follow each other stay channels first."""
    graph = AutoModel.from_pretrained(tensorflow_files / "vision_fp32.tflite").graph.graph
    kinds = [node.op_type for node in graph]
    start = kinds.index("Conv")
    assert "Transpose" not in kinds[kinds.index("Conv", start + 1) : kinds.index("ConvTranspose")]


def test_a_file_of_torch(tmp_path: Path) -> None:
    import litert_torch
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.GELU(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.LayerNorm(8), torch.nn.Linear(8, 4), torch.nn.Softmax(-1),
    ).eval()  # fmt: skip
    x = torch.randn(1, 3, 16, 16)
    litert_torch.convert(net, (x,)).export(str(tmp_path / "net.tflite"))
    (found,) = in_onnx(tmp_path / "net.tflite", {"args_0": x.numpy()}, tmp_path).values()
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-6)
    module = AutoModel.from_pretrained(tmp_path / "net.tflite").module  # it can be pruned and trained
    np.testing.assert_allclose(module(x).detach().numpy(), found, atol=1e-6)


def test_an_operator_without_counterpart(tensorflow_files: Path) -> None:
    model = AutoModel.from_pretrained(tensorflow_files / "loop.tflite")
    statistics = analyse(model.graph)
    assert statistics.unknown_operators == ("tflite::WHILE",)
    assert openglm.fit(model, device="cortex-a53-2gb").unknown_operators == ["tflite::WHILE"]
    assert [(spec.dtype, spec.shape) for spec in model.outputs] == [("float32", (1, 4))]


def changed(path: Path, change: Any, target: Path) -> Path:
    """A whole file, packed again with something else in it."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(builder.Output())
    return target


def wrong_tensor(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [9999]


def wrong_operator(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 77


def wrong_buffer(model: Any) -> None:
    model.subgraphs[0].tensors[0].buffer = 9999


def wrong_shape(model: Any) -> None:
    constant = next(
        each for each in model.subgraphs[0].tensors if model.buffers[each.buffer].data is not None
    )
    constant.shape = np.array([5, 5, 5], np.int32)


def huge(model: Any) -> None:
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = np.array([2**20, 2**20], np.int32)


def no_graph(model: Any) -> None:
    model.subgraphs = []


def wrong_scales(model: Any) -> None:
    tensor = next(each for each in model.subgraphs[0].tensors if each.quantization.scale is not None)
    tensor.quantization.scale = np.ones(7, np.float32)


@pytest.mark.parametrize(
    "change", [wrong_tensor, wrong_operator, wrong_buffer, wrong_shape, huge, no_graph, wrong_scales]
)
def test_files_that_contradict_themselves(tensorflow_files: Path, tmp_path: Path, change: Any) -> None:
    whole = tensorflow_files / "vision_static.tflite"
    assert read(changed(whole, lambda model: None, tmp_path / "same.tflite")).inputs == read(whole).inputs
    path = changed(whole, change, tmp_path / "net.tflite")
    for load in (AutoModel.from_pretrained, openglm.load):
        with pytest.raises(InputError, match=r"not a whole \.tflite file"):
            load(path)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.3, 0.7, 0.99])
def test_truncated(tensorflow_files: Path, tmp_path: Path, share: float) -> None:
    whole = (tensorflow_files / "vision_fp32.tflite").read_bytes()
    path = tmp_path / "net.tflite"
    path.write_bytes(whole[: int(share * len(whole))])
    for load in (AutoModel.from_pretrained, openglm.load):
        with pytest.raises(InputError, match=r"no .tflite file|not a whole .tflite file"):
            load(path)


@pytest.mark.parametrize(
    "content", [b"A text, renamed.\n" * 9, b"\0" * 64, b"    TFL3", b"PK\3\4" + b"\0" * 90]
)
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"no .tflite file|not a whole .tflite file"):
        openglm.load(path)
    with pytest.raises(InputError, match="There is no file"):
        AutoModel.from_pretrained(tmp_path / "other.tflite")


def test_changed_bytes(tensorflow_files: Path, tmp_path: Path) -> None:
    """Whatever is in a file, it is read or refused."""
    whole = (tensorflow_files / "text_fp32.tflite").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(8, len(whole), 40):
            content[place] = rng.integers(256)
        path = tmp_path / "net.tflite"
        path.write_bytes(content)
        try:
            read(path)
        except InputError:
            refused += 1
    assert refused > 10
