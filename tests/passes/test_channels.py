"""Channel pruning: every layer that has a channel loses it, and what is left gives what it should."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.sources.module import wrap
from openglm.passes.channels import ChannelPruning
from openglm.passes.contract import Adapted, Context, parse_step

Run = Callable[..., dict[str, np.ndarray]]
Importance = Literal["magnitude", "taylor", "activation"]
IMPORTANCES: tuple[Importance, ...] = ("magnitude", "taylor", "activation")


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 32, stride=2)
        self.one, self.two = conv(32, 48), nn.Sequential(nn.Conv2d(48, 32, 3, 1, 1), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(x + self.two(self.one(x))).mean((2, 3)))


class Inverted(nn.Module):
    """The blocks of MobileNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, stride=2)
        self.expand, self.depthwise = conv(16, 64, 1), conv(64, 64, groups=64)
        self.project = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.last = conv(16, 40, 1)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        return self.head(self.last(x).mean((2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 16), conv(16, 24), conv(16, 32, stride=1)
        self.join, self.out = conv(72, 32, stride=2), nn.Conv2d(32, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.out(self.join(torch.cat([self.left(x), x, self.right(x)], 1)))


class Flat(nn.Module):
    """VGG's end: a flatten between the convolutions and a hidden Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 24), nn.MaxPool2d(2), conv(24, 32), nn.MaxPool2d(4))
        self.classifier = nn.Sequential(nn.Linear(32 * 4, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


NETS = (Residual, Inverted, Concat, Flat)


def batches(count: int = 12, seed: int = 0, size: int = 16) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 1, 3, size, size)).astype(np.float32)
    return [{"x": one} for one in noise.cumsum(-1).cumsum(-2) / 6]


def stacked(seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([batch["x"] for batch in batches(24, seed)]))


def made(kind: type[nn.Module]) -> nn.Module:
    """With statistics of batch normalisation as if it were trained."""
    torch.manual_seed(0)
    net = kind().train()
    with torch.no_grad():
        for seed in range(30):
            net(stacked(100 + seed))
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.3)
    return net.eval()


def model_of(net: nn.Module) -> Model:
    return wrap(net, {"x": torch.from_numpy(batches(1)[0]["x"])})


def applied(net: nn.Module, **settings: Any) -> Adapted:
    found = batches()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = ChannelPruning(**settings).apply(model_of(net), Context(calibration=lambda: found))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    return result


def error(net: nn.Module, other: nn.Module) -> float:
    with torch.no_grad():
        truth = net(stacked())
        return float((other(stacked()) - truth).square().sum() / (truth - truth.mean(0)).square().sum())


def convolutions(module: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


@pytest.mark.parametrize("multiple", [8, 4])
@pytest.mark.parametrize("kind", NETS)
def test_counts_are_multiples_and_inputs_and_outputs_stay(kind: type[nn.Module], multiple: int) -> None:
    net = made(kind)
    result = applied(net, keep=0.6, multiple=multiple)
    assert result.changed
    old, new = convolutions(net), convolutions(result.model.module)
    *hidden, last = new
    assert len(new[last].weight) == len(old[last].weight)
    assert new[next(iter(new))].weight.shape[1] == 3
    for name in hidden:
        count, before = len(new[name].weight), len(old[name].weight)
        assert count % multiple == 0
        # A concatenation counts its parts: each is rounded by itself.
        assert abs(count - 0.6 * before) <= multiple / 2
    assert result.model.module(stacked()).shape == net(stacked()).shape
    assert not result.model.module.training


@pytest.mark.parametrize("kind", [Inverted, Concat, Flat])
def test_the_exported_graph_is_smaller_and_gives_what_torch_gives(kind: type[nn.Module], run: Run) -> None:
    result = applied(made(kind), keep=0.5)
    module, graph = result.model.module, result.model.graph
    shapes = [tuple(value.shape.numpy()) for value in graph.graph.initializers.values() if value.shape]
    for layer in convolutions(module).values():
        assert {tuple(layer.weight.shape), tuple(layer.weight.shape[::-1])} & set(shapes)
    feeds = batches(1, seed=3)[0]
    with torch.no_grad():
        expected = module(torch.from_numpy(feeds["x"])).numpy()
    (found,) = run(graph, feeds).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("repair", [True, False])
def test_dead_channels_go_and_leave_the_outputs_as_they_were(importance: Importance, repair: bool) -> None:
    net: Any = made(Inverted)
    dead = torch.arange(0, 64, 2)
    with torch.no_grad():
        net.project[0].weight[:, dead] = 0
        net.expand[0].weight[dead] = 0
        net.depthwise[0].weight[dead] = 0
    result = applied(net, keep=0.5, importance=importance, repair=repair, layers=("expand.0",))
    assert convolutions(result.model.module)["depthwise.0"].groups == 32
    assert convolutions(result.model.module)["last.0"].weight.shape == net.last[0].weight.shape
    with torch.no_grad():
        # Damping of the least squares leaves a trace.
        torch.testing.assert_close(
            result.model.module(stacked()), net(stacked()), rtol=1e-3, atol=1e-3 if repair else 1e-5
        )


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_repair_brings_the_outputs_nearer(kind: type[nn.Module], importance: Importance) -> None:
    net = made(kind)
    plain, repaired = (
        error(net, applied(net, keep=0.6, importance=importance, repair=repair).model.module)
        for repair in (False, True)
    )
    assert repaired < 0.8 * plain


def test_redundant_channels_are_made_up_for() -> None:
    """Half of the channels are mixtures of the others: least squares finds what they gave."""
    net: Any = made(Flat)
    with torch.no_grad():
        mixing = torch.rand(16, 16) / 4
        norm = net.features[2][1]
        for tensor in (
            net.features[2][0].weight,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
        ):
            tensor[16:] = tensor[:16]
        net.features[2][0].weight[:16].abs_()
        net.features[2][0].weight[16:] = torch.einsum("oi,ichw->ochw", mixing, net.features[2][0].weight[:16])
        norm.weight.fill_(1), norm.bias.fill_(0), norm.running_mean.fill_(0), norm.running_var.fill_(1)
        net.features[2][2] = nn.Identity()
        net.features[3] = nn.AvgPool2d(4)
    result = applied(net, keep=0.5, layers=("features.2.0",))
    assert error(net, result.model.module) < 1e-3
    assert error(net, applied(net, keep=0.5, layers=("features.2.0",), repair=False).model.module) > 0.01


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_the_least_important_channels_go(importance: Importance) -> None:
    """What every measure must agree on: channels whose weights are a thousandth of the others'."""
    net: Any = made(Residual)
    weak = torch.randperm(48, generator=torch.Generator().manual_seed(2))[:24]
    strong = [channel for channel in range(48) if channel not in weak]
    with torch.no_grad():
        for tensor in (net.one[0].weight, net.one[1].weight, net.one[1].bias):
            tensor[weak] *= 1e-3
        net.two[0].weight[:, weak] *= 1e-3
    result = applied(net, keep=0.5, importance=importance, layers=("one.0",), repair=False)
    assert torch.equal(result.model.module.one[0].weight, net.one[0].weight[strong])
    assert torch.equal(result.model.module.two[0].weight, net.two[0].weight[:, strong])


def test_ranking_over_all_takes_from_the_layers_that_need_least() -> None:
    net: Any = made(Residual)
    with torch.no_grad():
        net.one[0].weight[16:] *= 1e-3
        net.two[0].weight[:, 16:] *= 1e-3
    module = applied(net, keep=0.6, scope="global", importance="magnitude").model.module
    assert len(module.one[0].weight) == 16
    assert len(module.stem[0].weight) == 32


def test_a_layer_used_twice_is_pruned_as_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again, self.head = conv(3, 32), nn.Conv2d(32, 32, 3, 1, 1), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.again(self.stem(x)))
            return self.head(torch.relu(self.again(x)).mean((2, 3)))

    net = made(Twice)
    module = applied(net, keep=0.5).model.module
    assert convolutions(module)["again"].weight.shape == (16, 16, 3, 3)
    assert error(net, module) < error(net, applied(net, keep=0.5, repair=False).model.module)


def test_what_has_no_channels_of_its_own_stays_and_is_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.free, self.grouped = conv(3, 32), conv(32, 32, groups=4)
            self.normed, self.norm = nn.Conv2d(32, 32, 1), nn.GroupNorm(4, 32)
            self.last, self.tied = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)
            self.tied.weight = self.last.weight
            self.hidden, self.head = nn.Conv2d(32, 32, 1), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.normed(self.grouped(self.free(x))))
            return self.head(self.hidden(self.tied(torch.relu(self.last(x)))).mean((2, 3)))

    net = made(Mixed)
    result = applied(net, keep=0.5)
    module = result.model.module
    assert {name for name, layer in convolutions(module).items()
            if layer.weight.shape != net.get_submodule(name).weight.shape} == {"hidden", "head"}  # fmt: skip
    assert module.tied.weight is module.last.weight
    for reason in ("grouped convolution", "norm", "shares its weight"):
        assert any(reason in note for note in result.notes)


def test_channels_in_a_matrix_product_stay() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.query, self.out = conv(3, 32, stride=4), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            query = self.query(x).flatten(2)
            mixed = torch.softmax(torch.bmm(query, query.transpose(1, 2)), -1)
            return self.out(torch.bmm(mixed, query).unflatten(2, x.shape[2:]))

    result = applied(made(Attention), keep=0.5)
    assert convolutions(result.model.module)["query"].weight.shape == (32, 16, 1, 1)
    assert any(note.startswith("The channels of query stay: they enter a matrix") for note in result.notes)


def test_a_module_for_single_samples_is_not_repaired() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = conv(3, 32), nn.Linear(32, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x.view(1, 3, 16, 16)).mean((2, 3)))

    net = Single().eval()
    with pytest.raises(InputError, match="at once"):
        applied(net, keep=0.5)
    assert applied(net, keep=0.5, repair=False).changed


def test_sums_with_the_inputs_keep_their_channels() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = conv(3, 32), nn.Conv2d(32, 3, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.outer(self.inner(x)) + x)

    module = applied(made(Skip), keep=0.5, multiple=1).model.module
    assert convolutions(module)["outer"].weight.shape == (3, 16, 3, 3)


class Counting(nn.Module):
    """Its channels stand in the code, and in a mean over them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.body, self.head = way, conv(3, 32), nn.Linear(32, 5)
        self.other = nn.Conv2d(32, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = float(x.detach().mean()) > 0
        x = self.body(x)
        if self.way == "shape":
            x = x * torch.ones(32, 1, 1)
        elif self.way == "mean":
            x = x - x.mean(1, keepdim=True)
        elif self.way == "branch" and bright:
            x = self.other(x)
        elif self.way == "numpy":
            x = x + float(x.numpy().mean())
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("way", ["shape", "mean", "numpy"])
def test_channels_that_cannot_be_followed_are_refused(way: str) -> None:
    with pytest.raises(InputError, match="cannot be followed"):
        applied(Counting(way).eval(), keep=0.5)


def test_flow_that_depends_on_data_is_refused() -> None:
    """The first sample takes one way through the module, and a later one the other."""
    found = [{"x": np.full((1, 3, 16, 16), value, np.float32)} for value in (-1, 1)]
    with pytest.raises(InputError, match="cannot be followed"):
        ChannelPruning(keep=0.5).apply(
            model_of(Counting("branch").eval()), Context(calibration=lambda: found)
        )


def test_what_there_is_not_is_said() -> None:
    plain = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    model = wrap(plain, (torch.ones(1, 16),))
    result = ChannelPruning(keep=0.5).apply(model, Context())
    assert not result.changed
    assert result.model is model
    assert "no convolutions" in result.notes[0]
    net = made(Residual)
    assert not applied(net, keep=1).changed
    with pytest.raises(InputError, match="calibration"):
        ChannelPruning(keep=0.5).apply(model_of(net), Context())
    with pytest.raises(InputError, match=r"Did you mean one\.0"):
        applied(net, keep=0.5, layers=("one.1",))


def test_frozen_parameters_stay_frozen_and_results_the_same() -> None:
    net = made(Residual).requires_grad_(False)
    one, other = (applied(net, keep=0.5).model.module for _ in range(2))
    assert not any(parameter.requires_grad for parameter in one.parameters())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@given(keep=st.floats(0.01, 1), size=st.integers(1, 600), multiple=st.sampled_from([1, 4, 8, 16]))
def test_rounding(keep: float, size: int, multiple: int) -> None:
    count = ChannelPruning(keep=keep, multiple=multiple)._rounded(keep * size, size)
    assert 1 <= count <= size
    assert count == size or (
        count % multiple == 0 and abs(count - keep * size) <= max(multiple / 2, multiple - keep * size)
    )
    assert keep < 1 or count == size


def test_the_code_and_the_recipe() -> None:
    config = ChannelPruning(keep=0.5, layers=("a.b",))
    assert parse_step(config.to_recipe()) == config
    fields = itertools.product((0.5, 0.75), IMPORTANCES, ("layer", "global"), (True, False), (8, 16))
    codes = {config.code} | {
        ChannelPruning(keep=keep, importance=importance, scope=scope, repair=repair, multiple=multiple).code
        for keep, importance, scope, repair, multiple in fields
    }
    assert len(codes) == 1 + 2 * 3 * 2 * 2 * 2
