"""Graphs as modules: what they answer, what their layers are called, and that they can be changed."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from openglm import AutoModel, distil  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.modules import KNOWN  # noqa: E402
from openglm.model.modules.graph_module import LAYERS, of_graph  # noqa: E402
from openglm.model.modules.operators import OPERATORS  # noqa: E402
from openglm.model.sources import onnx_file  # noqa: E402
from openglm.passes.channels import ChannelPruning  # noqa: E402
from openglm.passes.contract import Context  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def answers(graph: ir.Model, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString()).run(None, inputs)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32)


def test_known_is_what_is_there() -> None:
    assert {*OPERATORS, *LAYERS, "Constant"} == KNOWN


def test_convolutions(conv_file: Path) -> None:
    model = AutoModel.from_pretrained(conv_file)
    module = model.module
    kinds = {type(layer).__name__ for layer in module.modules()}
    assert {"Conv2d", "Linear"} <= kinds
    x = pictures(3)
    (truth,) = answers(model.graph, {"pixel_values": x})
    with torch.no_grad():
        np.testing.assert_allclose(module(pixel_values=torch.from_numpy(x)), truth, atol=1e-5)


def test_layers_have_the_names_of_the_file(conv_file: Path) -> None:
    names = {name for name, layer in AutoModel.from_pretrained(conv_file).module.named_modules() if name}
    assert "features.0" in names


def test_an_encoder(bert_folder: Path) -> None:
    graph = AutoModel.from_pretrained(bert_folder).graph
    module = of_graph(graph)
    rng = np.random.default_rng(0)
    for rows, length in ((1, 5), (3, 11)):
        inputs = {
            "input_ids": rng.integers(0, 50, (rows, length)),
            "attention_mask": np.ones((rows, length), np.int64),
            "token_type_ids": np.zeros((rows, length), np.int64),
        }
        inputs = {value.name: inputs[value.name] for value in graph.graph.inputs}
        inputs["attention_mask"][-1, length // 2 :] = 0
        (truth,) = answers(graph, inputs)
        with torch.no_grad():
            found = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        np.testing.assert_allclose(found, truth, atol=1e-5)


def test_exported_again_sizes_are_still_free(bert_folder: Path, tmp_path: Path) -> None:
    first = AutoModel.from_pretrained(bert_folder)
    onnx_file.write(first.graph, tmp_path / "bert.onnx")
    model = AutoModel.from_pretrained(tmp_path / "bert.onnx")
    again = model.with_module(copy.deepcopy(model.module))
    assert [str(spec) for spec in again.inputs] == [str(spec) for spec in model.inputs]
    inputs = {spec.name: np.ones((2, 7), np.int64) for spec in model.inputs}
    for ours, truth in zip(answers(again.graph, inputs), answers(model.graph, inputs), strict=True):
        np.testing.assert_allclose(ours, truth, atol=1e-5)


def test_channels_of_a_file_are_pruned(conv_file: Path) -> None:
    model = AutoModel.from_pretrained(conv_file)
    context = Context(calibration=lambda: ({"pixel_values": picture[None]} for picture in pictures(4)))
    pruned = ChannelPruning(keep=0.5, multiple=2, importance="magnitude").apply(model, context)
    assert pruned.changed

    def parameters(graph: ir.Model) -> int:
        return sum(value.const_value.size for value in graph.graph.initializers.values())

    assert parameters(pruned.model.graph) < 0.7 * parameters(model.graph)
    assert answers(pruned.model.graph, {"pixel_values": pictures(2)})[0].shape == (2, 4)


def test_weights_learn_and_constants_do_not(conv_file: Path) -> None:
    module = AutoModel.from_pretrained(conv_file).module
    loss = module(torch.from_numpy(pictures(2))).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert sum(parameter.numel() for parameter in module.parameters()) > 0


@pytest.mark.parametrize("opset", [9, 11])
def test_older_operator_sets(opset: int) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["x"], ["a"], axes=[1]),
            helper.make_node("ReduceSum", ["a"], ["b"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["b", "w"], ["c"]),
            helper.make_node("Softmax", ["c"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    module = of_graph(ir.from_proto(proto))
    x = torch.randn(3, 6)
    torch.testing.assert_close(module(x), (x @ torch.from_numpy(weight)).softmax(1))


def test_sizes_that_are_computed_in_32_bits() -> None:
    """As TensorFlow's exporter has them: a shape is cast, and numbers of its own stand beside what it is."""
    import onnx.parser

    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[batch, 3, 4] x) => (float[batch, 3, 4] y)
        <int32[1] one = {1}, int64[1] first = {0}, int64[1] second = {1}, int64[2] all = {1, 2}>
        {
            sizes = Shape (x)
            narrow = Cast <to = 6> (sizes)
            rows = Slice (narrow, first, second)
            joined = Concat <axis = 0> (rows, one, one)
            wide = Cast <to = 7> (joined)
            largest = ReduceMax <keepdims = 0> (x, all)
            spread = Reshape (largest, wide)
            y = Sub (x, spread)
        }""")
    module = of_graph(ir.from_proto(graph))
    x = torch.randn(2, 3, 4)
    truth = x - x.amax((1, 2), keepdim=True)
    torch.testing.assert_close(module(x), truth)
    free = {"x": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(module, (x,), dynamic_shapes=free).module()
    torch.testing.assert_close(exported(x[:1]), truth[:1])


def test_quantized_graphs_have_no_module(conv_file: Path, tmp_path: Path) -> None:
    graph = onnx_file.read(conv_file)
    next(iter(graph.graph)).domain = "com.microsoft"
    onnx_file.write(graph, tmp_path / "other.onnx")
    model = AutoModel.from_pretrained(tmp_path / "other.onnx")
    assert model.trainable is None
    with pytest.raises(InputError, match="graph without its PyTorch module"):
        _ = model.module


def test_a_form_that_is_not_known() -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1, sharpness=2.0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
    )
    with pytest.raises(InputError, match="Softmax in this form"):
        of_graph(ir.from_proto(helper.make_model(graph)))


def test_a_graph_alone_cannot_be_trained(conv_file: Path, tmp_path: Path) -> None:
    data = open_data([{"pixel_values": np.zeros((3, 16, 16), np.float32)}])
    graph = onnx_file.read(conv_file)
    next(iter(graph.graph)).domain = "com.microsoft"
    onnx_file.write(graph, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="without its PyTorch module"):
        distil(conv_file, tmp_path / "other.onnx", data)


def test_an_onnx_file_learns(conv_file: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"pixel_values": rng.normal(size=(3, 16, 16)).astype(np.float32), "label": index % 4}
        for index in range(8)
    ]
    before = AutoModel.from_pretrained(conv_file).module.state_dict()
    after = distil(conv_file, conv_file, open_data(rows), steps=2, alpha=0.5).module.state_dict()
    assert before.keys() == after.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before if name.endswith("weight"))
