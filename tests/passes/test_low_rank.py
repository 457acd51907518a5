"""Low-rank factorisation: the best approximation on the data, within the budget, in the exported graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.sources.module import wrap
from openglm.passes.contract import Context, parse_step
from openglm.passes.low_rank import LowRank
from openglm.passes.structure import ranks
from openglm.passes.structure.moments import ROWS, gather

Run = Callable[..., dict[str, np.ndarray]]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, 2, 1)
        self.point = nn.Conv2d(32, 64, 1, bias=False)
        self.wide = nn.Conv2d(64, 48, 3, stride=2, dilation=2, padding=1)
        self.hidden = nn.Linear(48, 96)
        self.head = nn.Linear(96, 40)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.point(torch.relu(self.conv(pixel_values))))
        x = torch.relu(self.wide(x)).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def pictures(count: int, size: int = 16, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shades = rng.normal(size=(count, 1, 3, size, size)).astype(np.float32)
    return [{"pixel_values": shade} for shade in shades.cumsum(-1) / 4]


def model_of(net: nn.Module, batch: Mapping[str, np.ndarray]) -> Model:
    return wrap(net.eval(), {name: torch.from_numpy(array) for name, array in batch.items()})


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def context() -> Context:
    batches = pictures(24)
    return Context(calibration=lambda: batches)


def cost(module: nn.Module, batch: Mapping[str, np.ndarray], names: tuple[str, ...]) -> int:
    """Multiply-accumulates of the layers at or below the names, counted while it runs."""
    total = 0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.split(".")[0] in names:
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(**{name: torch.from_numpy(array) for name, array in batch.items()})
    return total


ELIGIBLE = ("conv", "point", "wide", "hidden")


@pytest.mark.parametrize("keep", [0.75, 0.5, 0.4])
def test_the_budget_holds_and_ranks_are_multiples(net: Net, context: Context, keep: float) -> None:
    batch = pictures(1)[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = LowRank(keep=keep).apply(model_of(net, batch), context)
    assert result.changed
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    pairs = [layer for layer in result.model.module.children() if isinstance(layer, nn.Sequential)]
    assert pairs
    for first, second in pairs:
        assert len(first.weight) % 8 == 0
        assert second.weight.shape[1] == len(first.weight)
        assert first.bias is None
    share = cost(result.model.module, batch, ELIGIBLE) / cost(net, batch, ELIGIBLE)
    assert keep - 0.15 < share <= keep
    assert isinstance(result.model.module.head, nn.Linear)
    assert any("head" in note for note in result.notes)


def test_the_exported_graph_holds_two_thin_matrices(net: Net, context: Context, run: Run) -> None:
    result = LowRank(keep=0.5).apply(model_of(net, pictures(1)[0]), context)
    module = result.model.module
    graph = result.model.graph
    shapes = {tuple(value.shape.numpy()) for value in graph.graph.initializers.values() if value.shape}
    for name in ELIGIBLE:
        whole, now = net.get_submodule(name), module.get_submodule(name)
        if isinstance(now, nn.Sequential):
            for thin in now:
                found = tuple(thin.weight.shape)
                assert found in shapes or found[::-1] in shapes
            assert tuple(whole.weight.shape) not in shapes
    batch = pictures(1, seed=5)[0]
    with torch.no_grad():
        expected = module(torch.from_numpy(batch["pixel_values"])).numpy()
    (found,) = run(graph, batch).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_outputs_come_nearer_with_more_of_the_cost(net: Net, context: Context) -> None:
    batch = torch.from_numpy(np.concatenate([one["pixel_values"] for one in pictures(16, seed=9)]))
    errors = []
    for keep in (0.35, 0.6, 0.9):
        module = LowRank(keep=keep).apply(model_of(net, pictures(1)[0]), context).model.module
        with torch.no_grad():
            errors.append(float((module(batch) - net(batch)).square().sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


def test_nothing_changes_where_all_may_stay(net: Net, context: Context) -> None:
    model = model_of(net, pictures(1)[0])
    result = LowRank(keep=1).apply(model, context)
    assert not result.changed
    assert result.model is model


@pytest.mark.parametrize("layer", ["point", "wide", "hidden"])
def test_a_layer_of_low_rank_is_kept_exactly(net: Net, context: Context, layer: str) -> None:
    torch.manual_seed(1)
    low = Net().eval()
    target: Any = low.get_submodule(layer)
    flat = target.weight.detach().flatten(1)
    with torch.no_grad():
        target.weight.copy_(
            (torch.randn(len(flat), 8) @ torch.randn(8, flat.shape[1]) / 20).view_as(target.weight)
        )
    module = LowRank(keep=0.5, layers=(layer,)).apply(model_of(low, pictures(1)[0]), context).model.module
    assert isinstance(module.get_submodule(layer), nn.Sequential)
    batch = torch.from_numpy(pictures(1, seed=3)[0]["pixel_values"])
    with torch.no_grad():
        torch.testing.assert_close(module(batch), low(batch), rtol=1e-4, atol=1e-4)


def test_only_the_named_layers_change(net: Net, context: Context) -> None:
    module = LowRank(keep=0.5, layers=("wide",)).apply(model_of(net, pictures(1)[0]), context).model.module
    assert [name for name, layer in module.named_children() if isinstance(layer, nn.Sequential)] == ["wide"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(2, 12),
    st.integers(1, 3),
    st.integers(20, 60),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_truncation_is_the_best_on_the_data(
    inputs: int, outputs: int, rank: int, rows: int, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (
        rng.normal(size=(rows, inputs)) @ rng.normal(size=(inputs, inputs)) + rng.normal(size=inputs)
    ).astype("f4")
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.normal(size=(outputs, inputs))))
    rank = min(rank, inputs * outputs // (inputs + outputs))
    moment = gather(nn.Sequential(layer), ["0"], [{"input": x}])["0"]
    factors = ranks.decompose(layer, moment)
    with torch.no_grad():
        truth = layer(torch.from_numpy(x)).double().numpy()
        found = ranks.factorised(layer, factors, rank)(torch.from_numpy(x)).double().numpy()
    error = np.square(found - truth).sum()
    # The best of that rank for these rows: the truncated SVD of the outputs, less their mean with a bias.
    values = np.linalg.svd(truth - (truth.mean(0) if bias else 0), compute_uv=False)
    best = np.square(values[rank:]).sum()
    # Damping adds to the moments a thousandth of their mean.
    weight = layer.weight.detach().double().numpy()
    left, sizes, right = np.linalg.svd(weight, full_matrices=False)
    plain = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    spread = x - x.mean(0) if bias else x
    slack = 1e-3 * np.square(spread).sum() / inputs * np.square(weight).sum()
    assert best - 1e-4 * np.square(truth).sum() <= error <= best + slack + 1e-4 * np.square(truth).sum()
    shifted = spread.astype(float) @ (weight - plain).T
    assert error <= np.square(shifted).sum() + 1e-4 * np.square(truth).sum()


def test_losses_are_those_of_the_layer_on_the_data() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 20)
    x = np.random.default_rng(0).normal(size=(500, 24)).astype(np.float32)
    assert len(x) < ROWS
    factors = ranks.decompose(layer, gather(nn.Sequential(layer), ["0"], [{"input": x}])["0"])
    for choice in ranks.choices(factors, positions=3, weight=2.0, multiple=4):
        assert choice.cost == 3 * (24 * 20 if choice.rank is None else choice.rank * 44)
        if choice.rank is not None:
            with torch.no_grad():
                lost = ranks.factorised(layer, factors, choice.rank)(torch.from_numpy(x)) - layer(
                    torch.from_numpy(x)
                )
            assert choice.loss == pytest.approx(2 * float(lost.square().mean()), rel=0.02)


def _every(layers: Mapping[str, list[ranks.Choice]], budget: float) -> float:
    """The least sum of losses within the budget, by trying all."""
    best = {0: 0.0}
    for options in layers.values():
        grown: dict[int, float] = {}
        for spent, loss in best.items():
            for option in options:
                if spent + option.cost <= budget:
                    total = spent + option.cost
                    grown[total] = min(grown.get(total, np.inf), loss + option.loss)
        best = grown
    return min(best.values(), default=np.inf)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_are_given_out_within_the_budget_and_near_the_best(data: st.DataObject) -> None:
    layers = {}
    for index in range(data.draw(st.integers(1, 4))):
        gains = sorted(data.draw(st.lists(st.floats(0, 10), min_size=2, max_size=6)), reverse=True)
        unit = data.draw(st.integers(1, 5))
        losses = [sum(gains[place:]) for place in range(1, len(gains) + 1)]
        layers[str(index)] = [
            ranks.Choice(8 * place, unit * place, loss) for place, loss in enumerate(losses, start=1)
        ]
    whole = sum(options[-1].cost for options in layers.values())
    budget = data.draw(st.floats(0, 1)) * whole
    chosen = ranks.allocate(layers, budget)
    best = _every(layers, budget)
    if chosen is None:
        assert best == np.inf
        return
    assert sum(choice.cost for choice in chosen.values()) <= budget
    # Greedy steps on convex losses miss the best by less than the largest step they could not take.
    largest = max(a.loss - b.loss for options in layers.values() for a, b in itertools.pairwise(options))
    assert best - 1e-9 <= sum(choice.loss for choice in chosen.values()) <= best + largest + 1e-9


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 48)
        self.first, self.second = nn.Linear(48, 64), nn.Linear(64, 48)
        self.idle = nn.Linear(48, 64)
        self.output = nn.Linear(48, 64, bias=False)
        self.output.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids)
        self.idle(x)
        return torch.sigmoid(self.output(x + self.second(torch.relu(self.first(x)))))


def test_tied_and_idle_layers_stay_and_are_named() -> None:
    torch.manual_seed(0)
    batches = [{"ids": np.random.default_rng(seed).integers(0, 64, (1, 12))} for seed in range(8)]
    net = Tied().requires_grad_(False)
    result = LowRank(keep=0.6).apply(model_of(net, batches[0]), Context(calibration=lambda: batches))
    module = result.model.module
    assert isinstance(module.first, nn.Sequential) or isinstance(module.second, nn.Sequential)
    assert module.output.weight is module.words.weight
    assert isinstance(module.idle, nn.Linear)
    assert {note.split()[0] for note in result.notes} >= {"output", "idle"}
    assert not any(
        parameter.requires_grad for name, parameter in module.named_parameters() if "words" in name
    )


def test_a_module_that_reads_its_layers_weights_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x) * self.body.weight.mean())

    batches = [{"x": np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)}]
    with pytest.raises(InputError, match="factorised"):
        LowRank(keep=0.5).apply(model_of(Reads(), batches[0]), Context(calibration=lambda: batches))


def test_what_cannot_be_done_is_said(net: Net, context: Context) -> None:
    model = model_of(net, pictures(1)[0])
    with pytest.raises(InputError, match="small"):
        LowRank(keep=0.01).apply(model, context)
    with pytest.raises(InputError, match="calibration"):
        LowRank(keep=0.5).apply(model, Context())
    with pytest.raises(InputError, match="Did you mean wide"):
        LowRank(keep=0.5, layers=("wide1",)).apply(model, context)


def test_the_same_data_gives_the_same_layers(net: Net, context: Context) -> None:
    model = model_of(net, pictures(1)[0])
    one, other = (LowRank(keep=0.5).apply(model, context).model.module.state_dict() for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_code_and_the_recipe() -> None:
    config = LowRank(keep=0.5, layers=("a.b",))
    assert LowRank(keep=0.5).code == "low_rank_0.5"
    assert parse_step(config.to_recipe()) == config
    codes = {LowRank(keep=0.5).code, LowRank(keep=0.5, multiple=16).code, config.code, LowRank(keep=0.6).code}
    assert len(codes) == 4
