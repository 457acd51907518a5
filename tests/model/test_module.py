"""Modules to graphs: the graph computes the same, and what cannot be exported is said so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from openglm.errors import InputError, MissingExtraError
from openglm.model.auto import AutoModel
from openglm.model.sources import module as modules

torch = pytest.importorskip("torch", reason="torch, which exports modules, is not installed")


class Linear(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


class Two(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two inputs, two outputs, one of them not of floats."""

    def forward(self, left: Any, right: Any) -> Any:
        return left @ right.transpose(1, 2), (left.sum((1, 2)) > 0)


class Fixed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Takes a batch of one only."""

    def forward(self, x: Any) -> Any:
        return x.reshape(4, 4).flip(0)


class Choosing(torch.nn.Module):  # type: ignore[misc, name-defined]
    """What it does depends on its data."""

    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x - 1


class Silent(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Fails without a word."""

    def forward(self, x: Any) -> Any:
        raise AssertionError


def ran(graph: ir.Model, inputs: Mapping[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    return list(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()}))


@pytest.mark.parametrize("rows", [1, 3])
def test_graph_equals_module_for_any_batch(rows: int) -> None:
    net = Linear()
    model = AutoModel.wrap(net, [torch.randn(rows, 4)])
    assert (model.name, model.task) == ("linear", "generic")
    assert [str(spec) for spec in model.inputs] == ["x: float32[batch, 4]"]
    for batch in (1, 5):
        x = torch.randn(batch, 4)
        np.testing.assert_allclose(ran(model.graph, {"x": x})[0], net(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs_and_outputs(by_name: bool) -> None:
    left, right = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    model = AutoModel.wrap(Two(), {"left": left, "right": right} if by_name else (left, right), name="two")
    assert {spec.name for spec in model.inputs} == {"left", "right"}
    product, positive = ran(model.graph, {"left": left, "right": right})
    expected = Two()(left, right)
    np.testing.assert_allclose(product, expected[0].numpy(), atol=1e-6)
    np.testing.assert_array_equal(positive, expected[1].numpy())


def test_a_batch_that_cannot_vary_stays_fixed() -> None:
    model = AutoModel.wrap(Fixed(), [torch.randn(1, 16)])
    assert [spec.shape for spec in model.inputs] == [(1, 16)]
    x = torch.randn(1, 16)
    np.testing.assert_array_equal(ran(model.graph, {"x": x})[0], Fixed()(x).numpy())


def test_own_dynamic_shapes() -> None:
    width = torch.export.Dim("width", min=2, max=64)
    model = AutoModel.wrap(torch.nn.ReLU(), [torch.randn(2, 8)], dynamic_shapes={"input": {1: width}})
    assert model.inputs[0].shape[0] == 2
    assert isinstance(model.inputs[0].shape[1], str)


def test_control_flow_on_data(capfd: pytest.CaptureFixture[str]) -> None:
    model = AutoModel.wrap(Choosing(), [torch.randn(2, 4)])
    with pytest.raises(InputError, match="Choosing cannot be exported") as caught:
        model.graph  # noqa: B018
    assert "Control flow that depends on data" in caught.value.advice
    assert capfd.readouterr() == ("", ""), "one error is enough"


def test_another_module_gives_outputs_of_the_same_names() -> None:
    """The exporter names them by the number of layers before them."""
    layers = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)]
    model = AutoModel.wrap(torch.nn.Sequential(*layers), [torch.randn(2, 4)])
    deeper = torch.nn.Sequential(torch.nn.Linear(4, 4), *layers).eval()
    changed = model.with_module(deeper)
    assert [output.name for output in changed.outputs] == [output.name for output in model.outputs]
    names = [value.name for node in changed.graph.graph for value in node.outputs]
    assert len(names) == len(set(names))
    x = torch.randn(3, 4)
    (name,) = [spec.name for spec in model.inputs]
    (found,) = ran(changed.graph, {name: x})
    np.testing.assert_allclose(found, deeper(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_failure_without_words() -> None:
    with pytest.raises(InputError, match="Silent cannot be exported"):
        AutoModel.wrap(Silent(), [torch.randn(2, 4)]).graph  # noqa: B018


def test_weights_that_are_nan_are_told_by_the_weight() -> None:
    """The graph gives NaN where the module does: the export is right, and the weight is what is wrong."""
    from openglm.model.sources.onnx_file import check_finite

    net = Linear()
    net.layer.weight.data[0, 0] = float("nan")
    graph = AutoModel.wrap(net, [torch.randn(2, 4)]).graph
    with pytest.raises(InputError, match=r"layer\.weight"):
        check_finite(graph)


def test_a_wrong_graph_is_noticed() -> None:
    net, inputs = Linear().eval(), {"x": torch.randn(2, 4)}
    graph = modules.export(net, inputs)
    net.layer.bias = torch.nn.Parameter(net.layer.bias + 1.0)
    with torch.no_grad():
        expected = net(**inputs)
    with pytest.raises(InputError, match="differs from the module's by 1"):
        modules.compare(graph, inputs, expected)


@pytest.mark.parametrize("inputs", [[], [1, 2, 3]])
def test_examples_that_do_not_fit(inputs: list[Any]) -> None:
    with pytest.raises(InputError, match=r"do not fit Linear\.forward"):
        AutoModel.wrap(Linear(), inputs)


def test_not_a_module() -> None:
    with pytest.raises(InputError, match=r"A str is not an nn\.Module"):
        AutoModel.wrap("net", [])


def test_nothing_of_this_machine_stays_in_the_graph() -> None:
    graph = AutoModel.wrap(Linear(), [torch.randn(2, 4)]).graph
    assert b"/test_module.py" not in ir.to_proto(graph).SerializeToString()


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"openglm\[torch\]"):
        modules.require_torch()
