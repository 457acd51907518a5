"""Magnitude pruning: which weights become zeros, in the module and in the graph."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from pydantic import ValidationError

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.sources.module import wrap
from openglm.passes.contract import Context
from openglm.passes.magnitude import MagnitudePruning
from openglm.passes.sparse_storage import SparseStorage

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


class Net(nn.Module):
    """Convolutions, one of them depthwise, a tied table, and a head of few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 32, 3, padding="same", groups=4)
        self.norm = nn.BatchNorm2d(32)
        self.wide = nn.Linear(32, 160)
        self.deep = nn.Linear(160, 64)
        self.table = nn.Embedding(8, 64)
        self.tied = nn.Linear(64, 8, bias=False)
        self.tied.weight = self.table.weight
        self.head = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.norm(self.grouped(self.depthwise(torch.relu(self.first(x))))))
        x = self.deep(torch.relu(self.wide(x.mean((2, 3)))))
        return self.head(self.tied(x + self.table.weight.sum(0)))


PRUNED = ("first", "grouped", "wide", "deep")


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand(()) + 0.5)
    return wrap(net, {"x": torch.randn(2, 3, 8, 8)})


@pytest.fixture(scope="module")
def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(5, 3, 8, 8)).astype(np.float32)} for _ in range(3)]


def weights(model: Model) -> dict[str, np.ndarray]:
    return {name: getattr(model.module, name).weight.detach().numpy() for name in PRUNED}


def assert_least_are_zero(before: np.ndarray, after: np.ndarray, scores: np.ndarray, count: int) -> None:
    """`count` weights are zeros, none of them of a greater score than any that stayed, unchanged."""
    zero = after == 0
    assert zero.sum() == count
    np.testing.assert_array_equal(after[~zero], before[~zero])
    if count:
        assert scores[zero].max() <= scores[~zero].min()


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_the_least_of_each_layer_become_zeros(model: Model, sparsity: float) -> None:
    pruned = MagnitudePruning(sparsity=sparsity).apply(model, Context())
    assert pruned.changed
    before, after = weights(model), weights(pruned.model)
    for name in PRUNED:
        count = round(sparsity * before[name].size)
        assert_least_are_zero(before[name], after[name], np.abs(before[name]), count)


def test_the_least_of_all_layers_become_zeros(model: Model) -> None:
    before = weights(model)
    after = weights(MagnitudePruning(sparsity=0.7, scope="global").apply(model, Context()).model)
    both = [np.concatenate([item[name].ravel() for name in PRUNED]) for item in (before, after)]
    assert_least_are_zero(*both, np.abs(both[0]), round(0.7 * both[0].size))
    shares = [(after[name] == 0).mean() for name in PRUNED]
    assert max(shares) - min(shares) > 0.05


def test_all_else_stays_and_is_named(model: Model) -> None:
    kept = copy.deepcopy(model.module.state_dict())
    result = MagnitudePruning().apply(model, Context())
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, kept[name]), "the module that was given changed"
        if name not in [f"{layer}.weight" for layer in PRUNED]:
            assert torch.equal(tensor, result.model.module.state_dict()[name])
    assert result.notes == (
        "tied stays dense: it has the weights of another layer.",
        "depthwise stays dense: it has one input for each output.",
        "head stays dense: it has less than 2% of all weights, at the output.",
        "50.0% of the weights of 4 layers are zeros: the file is smaller where it stores them compressed "
        "(sparse_storage), the speed that of the dense model.",
    )


@pytest.mark.parametrize("importance", ["magnitude", "activation"])
@pytest.mark.parametrize(("pattern", "odd"), [("2:4", ["first"]), ("1:4", ["first"]), ("1:3", [*PRUNED[1:]])])
def test_a_pattern_holds_in_every_group(
    model: Model, batches: list[dict[str, np.ndarray]], pattern: str, odd: list[str], importance: Any
) -> None:
    config = MagnitudePruning(pattern=pattern, importance=importance)
    result = config.apply(model, Context(calibration=lambda: batches))
    kept, group = map(int, pattern.split(":"))
    before, after = weights(model), weights(result.model)
    for name in PRUNED:
        if name in odd:
            np.testing.assert_array_equal(after[name], before[name])
            continue
        rows = np.moveaxis(after[name], 1, -1).reshape(-1, group)
        assert ((rows != 0).sum(1) == kept).all()
        if importance == "magnitude":
            original = np.moveaxis(before[name], 1, -1).reshape(-1, group)
            for was, now in zip(np.abs(original), rows, strict=True):
                assert was[now == 0].max() <= was[now != 0].min()
    assert any(f"no multiple of {group}." in note and odd[0] in note for note in result.notes)


def test_importance_by_activation_is_magnitude_times_norm_of_the_input(
    model: Model, batches: list[dict[str, np.ndarray]]
) -> None:
    seen: dict[str, list[Any]] = {name: [] for name in PRUNED}
    hooks = [
        getattr(model.module, name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(inputs[0].detach())
        )
        for name in PRUNED
    ]
    with torch.no_grad():
        for batch in batches:
            model.module(torch.from_numpy(batch["x"]))
    for hook in hooks:
        hook.remove()
    counted: list[int] = []
    config = MagnitudePruning(sparsity=0.6, importance="activation")
    result = config.apply(model, Context(calibration=lambda: batches, progress=counted.append))
    assert counted == [1, 2, 3]
    patches = nn.functional.unfold(torch.cat(seen["first"]), 3, padding=1)
    norms = {
        "first": patches.square().sum((0, 2)).sqrt().numpy(),
        "grouped": np.ones(4 * 9),  # by magnitude alone
        "wide": torch.cat(seen["wide"]).norm(dim=0).numpy(),
        "deep": torch.cat(seen["deep"]).norm(dim=0).numpy(),
    }
    before, after = weights(model), weights(result.model)
    for name in PRUNED:
        for was, now in zip(before[name], after[name], strict=True):
            was, now = was.ravel(), now.ravel()
            assert_least_are_zero(was, now, np.abs(was) * norms[name], round(0.6 * was.size))
    assert "grouped is pruned by magnitude: its convolution is grouped." in result.notes


def test_the_graph_has_the_zeros_and_the_modules_outputs(
    model: Model, batches: list[dict[str, np.ndarray]]
) -> None:
    result = MagnitudePruning(sparsity=0.8).apply(model, Context()).model
    graph = result.graph
    zeros = {
        name.split(".")[0]: int((value.const_value.numpy() == 0).sum())
        for name, value in graph.graph.initializers.items()
        if name.endswith(".weight")
    }
    for name in ("wide", "deep"):
        assert zeros[name] == (weights(result)[name] == 0).sum() == round(0.8 * weights(result)[name].size)
    stored = SparseStorage().apply(graph, Context()).graph
    with torch.no_grad():
        expected = result.module(torch.from_numpy(batches[0]["x"])).numpy()
    sizes = []
    for item in (graph, stored):
        content = ir.to_proto(item).SerializeToString()
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        sizes.append(len(content))
        np.testing.assert_allclose(session.run(None, batches[0])[0], expected, rtol=1e-4, atol=1e-5)
    assert sizes[1] < 0.5 * sizes[0]


def test_without_layers_nothing_changes() -> None:
    model = wrap(nn.Sequential(nn.Embedding(4, 4), nn.ReLU()), {"input": torch.zeros(2, 3, dtype=torch.long)})
    result = MagnitudePruning().apply(model, Context())
    assert not result.changed
    assert result.model is model
    assert result.notes == ("There is no layer to prune.",)


def test_activation_needs_data(model: Model) -> None:
    with pytest.raises(InputError, match="needs calibration data"):
        MagnitudePruning(importance="activation").apply(model, Context())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sparsity": 0.5, "pattern": "2:4"}, "give one of the two"),
        ({"pattern": "4:4"}, "nothing is pruned"),
        ({"pattern": "2/4"}, "pattern"),
        ({"pattern": "2:4", "scope": "global"}, "its scope is the layer"),
        ({"importance": "activation", "scope": "global"}, "do not compare"),
        ({"sparsity": 1.0}, "less than 1"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MagnitudePruning(**fields)


def test_the_code_tells_configs_apart() -> None:
    configs = [
        MagnitudePruning(),
        MagnitudePruning(sparsity=0.9),
        MagnitudePruning(pattern="2:4"),
        MagnitudePruning(scope="global"),
        MagnitudePruning(importance="activation"),
    ]
    assert len({config.code for config in configs}) == len(configs)
    assert configs[2].code == "magnitude_pruning_2of4"
