"""L1 pruning: sparse layers count small weights as zeros, and training ends with as many as was asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.sources.module import wrap
from openglm.passes.contract import Adapted, Context
from openglm.passes.l1 import L1Pruning, gradual

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from openglm.training.sparse_linear import SparseLinear, exchange, outside_pattern, shrink  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def linear(inputs: int = 12, outputs: int = 7, seed: int = 0, bias: bool = True) -> Any:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias)


@pytest.mark.parametrize("bias", [True, False])
@given(st.floats(0, 0.4), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_weights_below_the_threshold_count_as_zeros(bias: bool, threshold: float, seed: int) -> None:
    dense = linear(seed=seed, bias=bias)
    layer = SparseLinear.from_linear(dense, threshold)
    weight = dense.weight.detach()
    expected = torch.where(weight.abs() < torch.tensor(threshold), 0.0, weight)
    x = torch.randn(5, 12)
    assert torch.equal(layer(x), nn.functional.linear(x, expected, dense.bias))
    plain = layer.to_linear()
    assert type(plain) is nn.Linear
    assert torch.equal(plain.weight, expected)
    assert torch.equal(plain(x), layer(x))
    assert layer.sparsity == pytest.approx(float((expected == 0).float().mean()))


def test_gradients_reach_all_weights_as_if_none_were_zero() -> None:
    dense = linear()
    layer = SparseLinear.from_linear(dense, 0.15)
    assert 0.2 < layer.sparsity < 0.9
    x, upstream = torch.randn(5, 12, requires_grad=True), torch.randn(5, 7)
    layer(x).backward(upstream)
    assert torch.allclose(layer.weight.grad, upstream.T @ x.detach())
    assert torch.allclose(layer.bias.grad, upstream.sum(0))
    # What goes on to the layers before comes through the weights that count.
    assert torch.allclose(x.grad, upstream @ layer.masked())


def test_a_pattern_holds_in_every_group_of_inputs() -> None:
    layer = SparseLinear.from_linear(linear(), pattern=(2, 4))
    groups, weight = layer.masked().view(-1, 4), layer.weight.detach().view(-1, 4)
    assert ((groups != 0).sum(1) == 2).all()
    for kept, before in zip(groups, weight.abs(), strict=True):
        assert before[kept == 0].max() <= before[kept != 0].min()
    assert torch.equal(layer.to_linear().weight, layer.masked())
    with pytest.raises(ValueError, match="no multiple of 5"):
        SparseLinear.from_linear(linear(), pattern=(1, 5))
    assert outside_pattern(torch.zeros(1, 4), 1, 4).tolist() == [[True, True, True, False]]


@given(st.floats(0.01, 0.99), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_threshold_for_a_share(share: float, seed: int) -> None:
    layer = SparseLinear.from_linear(linear(seed=seed))
    layer.prune_to(share)
    assert round(layer.sparsity * 84) == min(round(share * 84), 83)
    assert "threshold" in layer.state_dict()


def test_shrinking_is_the_proximal_step_of_the_l1_norm() -> None:
    weight = torch.tensor([-2.0, -0.3, 0.0, 0.2, 0.5])
    grid = torch.linspace(-3, 3, 60001)
    best = [grid[(0.5 * (grid - value) ** 2 + 0.4 * grid.abs()).argmin()] for value in weight]
    shrink(weight, 0.4)
    assert torch.allclose(weight, torch.stack(best), atol=1e-4)
    assert (weight == 0).sum() == 3


def test_modules_are_exchanged_wherever_they_stand() -> None:
    shared = linear(4, 4)
    net = nn.Sequential(shared, nn.Sequential(nn.ReLU(), shared))
    exchange(net, {shared: nn.Identity()})
    assert [type(part) for part in net.modules() if not list(part.children())] == [nn.Identity, nn.ReLU]


def test_the_schedule_is_cubic() -> None:
    shares = [gradual(0.8, share) for share in (0, 0.25, 0.5, 1, 1.3)]
    assert shares == pytest.approx([0, 0.8 * (1 - 0.75**3), 0.8 * (1 - 0.5**3), 0.8, 0.8])


class Net(nn.Module):
    """A classifier of points, with a layer that does not fit a pattern and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (1, 5), padding=(0, 2))
        self.first = nn.Linear(64, 48)
        self.second = nn.Linear(48, 50)
        self.third = nn.Linear(50, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, points: Any) -> Any:
        x = self.conv(points[:, None, None, :]).flatten(1)
        return self.head(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))


LAYERS = ("first", "second", "third")
POINTS = np.random.default_rng(0).normal(size=(96, 16)).astype(np.float32)


def points(labelled: bool = True) -> Dataset:
    labels = (POINTS[:, 0] > 0).astype(int) + (POINTS[:, 1] > 0)

    def read() -> Iterator[Sample]:
        for row, label in zip(POINTS, labels, strict=True):
            yield Sample({"points": row}, int(label) if labelled else None)

    return Dataset("points", read, labelled=labelled)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return wrap(Net(), {"points": torch.from_numpy(POINTS[:2])}, task="classification")


def weights(model: Model) -> dict[str, Any]:
    return {name: getattr(model.module, name).weight.detach() for name in LAYERS}


@pytest.fixture(scope="module")
def pruned(model: Model) -> Adapted:
    config = L1Pruning(sparsity=0.7, steps=48, batch_size=16, learning_rate=2e-3)
    return config.apply(model, Context(training=points()))


def test_each_layer_ends_with_the_zeros_asked_for(model: Model, pruned: Adapted) -> None:
    assert pruned.changed
    for name in LAYERS:
        weight = weights(pruned.model)[name]
        assert int((weight == 0).sum()) == round(0.7 * weight.numel())
        assert type(getattr(pruned.model.module, name)) is nn.Linear
    assert not (pruned.model.module.head.weight == 0).any()
    assert pruned.notes == (
        "head stays dense: it has less than 2% of all weights, at the output.",
        "conv stays dense: it has weights that are no linear layer's.",
        "70.0% of the weights of 3 layers are zeros after 48 steps: the file is smaller where it stores them "
        "compressed (sparse_storage), the speed that of the dense model.",
    )


def test_it_learns(model: Model, pruned: Adapted) -> None:
    """The trained net is nearer to the labels than one that is pruned at once."""
    at_once = copy.deepcopy(model.module)
    for name in LAYERS:
        layer = SparseLinear.from_linear(getattr(at_once, name))
        layer.prune_to(0.7)
        setattr(at_once, name, layer.to_linear())
    labels = torch.tensor([sample.label for sample in points()])
    with torch.no_grad():
        losses = [
            float(nn.functional.cross_entropy(net(torch.from_numpy(POINTS)), labels))
            for net in (pruned.model.module, at_once)
        ]
    assert losses[0] < 0.95 * losses[1]


def test_the_graph_has_the_zeros(pruned: Adapted) -> None:
    graph = pruned.model.graph
    for name in LAYERS:
        stored = graph.graph.initializers[f"{name}.weight"].const_value.numpy()
        assert (stored == 0).sum() == round(0.7 * stored.size)
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = pruned.model.module(torch.from_numpy(POINTS)).numpy()
    np.testing.assert_allclose(session.run(None, {"points": POINTS})[0], expected, rtol=1e-4, atol=1e-5)


def test_the_same_again_and_the_model_given_stays(model: Model) -> None:
    before = copy.deepcopy(model.module.state_dict())
    config = L1Pruning(sparsity=0.5, steps=12, batch_size=16)
    first, second = (config.apply(model, Context(training=points())).model for _ in range(2))
    for name in LAYERS:
        assert torch.equal(weights(first)[name], weights(second)[name])
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_without_a_target_the_term_makes_the_zeros(model: Model) -> None:
    def share(strength: float) -> float:
        config = L1Pruning(strength=strength, steps=30, batch_size=16, learning_rate=5e-3)
        found = weights(config.apply(model, Context(training=points(labelled=False))).model)
        assert all((weight[weight != 0].abs() >= config.threshold).all() for weight in found.values())
        return float(torch.cat([(weight == 0).float().flatten() for weight in found.values()]).mean())

    shares = [share(strength) for strength in (0.0, 0.3, 0.9)]
    assert shares[0] < 0.05
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.3


def test_a_pattern_is_trained_in(model: Model) -> None:
    config = L1Pruning(pattern="2:4", strength=0.0, threshold=1e-9, steps=12, batch_size=16)
    result = config.apply(model, Context(training=points()))
    for name in ("first", "second"):
        assert ((weights(result.model)[name].view(-1, 4) != 0).sum(1) == 2).all()
    assert not (weights(result.model)["third"] == 0).any()
    assert "third stays dense: it has a number of inputs that is no multiple of 4." in result.notes


def test_stopped_and_resumed_it_ends_the_same(model: Model, tmp_path: Path) -> None:
    config = L1Pruning(sparsity=0.6, steps=30, batch_size=16)
    whole = config.apply(model, Context(training=points()))
    told: list[float] = []

    def stop(share: float, words: str) -> None:
        told.append(share)
        assert words.startswith("loss ")
        if len(told) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        config.apply(model, Context(training=points(), checkpoint=tmp_path, trained=stop))
    rest = config.apply(model, Context(training=points(), checkpoint=tmp_path, trained=stop))
    assert told[16] == pytest.approx(17 / 30)
    assert len(told) == 30
    assert told[-1] == 1
    for name in LAYERS:
        assert torch.equal(weights(rest.model)[name], weights(whole.model)[name])


def test_what_cannot_be_trained(model: Model) -> None:
    with pytest.raises(InputError, match="needs data"):
        L1Pruning().apply(model, Context())
    for fields in ({"sparsity": 0.5, "pattern": "2:4"}, {"pattern": "4:2"}, {"strength": -1}):
        with pytest.raises(ValidationError):
            L1Pruning(**fields)


def test_the_code_tells_configs_apart() -> None:
    configs = [L1Pruning(), L1Pruning(strength=1), L1Pruning(sparsity=0.5), L1Pruning(pattern="2:4")]
    assert len({config.code for config in configs}) == 4
