"""Neuron pruning and the scores it ranks by, against their definitions and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from openglm import AutoModel  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context, parse_step  # noqa: E402
from openglm.passes.neurons import NeuronPruning, rounded  # noqa: E402
from openglm.passes.structure import importance  # noqa: E402
from openglm.passes.structure.blocks import FeedForward, blocks  # noqa: E402

Arrays = dict[str, np.ndarray]
WIDTH, NEURONS = 8, 32


class Block(nn.Module):
    """A feed-forward layer with a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, NEURONS), nn.Linear(NEURONS, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fc2(functional.gelu(self.fc1(x)))


class Net(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def wrapped(net: nn.Module, task: str = "generic") -> Model:
    return AutoModel.wrap(net, {"x": torch.randn(1, 5, WIDTH)}, task=task)


def samples(count: int = 40, rank: int = WIDTH) -> list[Arrays]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(rank, WIDTH))
    return [{"x": (rng.normal(size=(1, 5, rank)) @ mixing).astype(np.float32)} for _ in range(count)]


def context(batches: Iterable[Mapping[str, np.ndarray]] | None = None) -> Context:
    found = samples() if batches is None else list(batches)
    return Context(calibration=lambda: iter(found))


def outputs(module: nn.Module, batches: Iterable[Mapping[str, np.ndarray]] | None = None) -> torch.Tensor:
    with torch.no_grad():
        found = samples() if batches is None else batches
        return torch.cat([module(torch.from_numpy(batch["x"])) for batch in found])


def test_code_and_recipe() -> None:
    plain = NeuronPruning(keep=0.5)
    assert plain.code == "neuron_pruning_0.5"
    every = NeuronPruning(
        keep=0.25, multiple=8, importance="magnitude", scope="global", blocks=(0, 2), repair=False
    )
    assert every.code == "neuron_pruning_0.25_multiple_8_magnitude_global_blocks_0_2_unrepaired"
    assert parse_step(every.to_recipe()) == every
    for wrong in ({"keep": 0.0}, {"keep": 1.0}, {"keep": 0.5, "multiple": 0}, {"keep": 0.5, "blocks": ()}):
        with pytest.raises(ValidationError):
            NeuronPruning(**wrong)


@given(st.floats(0, 1), st.integers(1, 5000), st.integers(1, 64))
def test_rounding(keep: float, width: int, multiple: int) -> None:
    count = rounded(keep * width, width, multiple)
    assert 1 <= count <= width
    assert count % multiple == 0 or count == width
    if multiple <= count < width:
        assert abs(count - keep * width) <= multiple / 2 or count == multiple


@pytest.mark.parametrize("scores", ["magnitude", "taylor", "activation"])
@pytest.mark.parametrize("repair", [True, False])
def test_neurons_that_give_nothing_go_unnoticed(net: Net, scores: Any, repair: bool) -> None:
    for layer in net.layers:
        layer.fc2.weight.data[:, ::2] = 0
        layer.fc1.weight.data[::2] *= 1e-3
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = wrapped(net)
    result = NeuronPruning(keep=0.5, importance=scores, repair=repair).apply(model, context())
    assert result.changed
    assert result.notes == ("32 of 64 feed-forward neurons stay.",)
    for old, new in zip(net.layers, result.model.module.layers, strict=True):
        assert torch.equal(new.fc1.weight, old.fc1.weight[1::2])
        assert torch.equal(new.fc1.bias, old.fc1.bias[1::2])
    torch.testing.assert_close(outputs(result.model.module), outputs(net), atol=1e-3, rtol=1e-3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("scores", ["magnitude", "taylor", "activation"])
def test_repair_makes_up_for_redundant_neurons(net: Net, scores: Any) -> None:
    for layer in net.layers:
        # Every second neuron does what the one before it does, for less.
        layer.fc1.weight.data[1::2], layer.fc1.bias.data[1::2] = layer.fc1.weight[::2], layer.fc1.bias[::2]
        layer.fc2.weight.data[:, 1::2] *= 0.1
    errors = []
    for repair in (True, False):
        config = NeuronPruning(keep=0.5, importance=scores, repair=repair)
        module = config.apply(wrapped(net), context()).model.module
        errors.append(float((outputs(module) - outputs(net)).square().mean()))
    assert errors[0] < errors[1] / 4


def test_repair_is_least_squares(net: Net) -> None:
    batches = samples()
    config = NeuronPruning(keep=0.5, blocks=(0,))
    module = config.apply(wrapped(net), context(batches)).model.module
    first, pruned = net.layers[0], module.layers[0]
    with torch.no_grad():
        x = torch.cat([torch.from_numpy(batch["x"]) for batch in batches]).flatten(0, 1)
        target = first.fc2(functional.gelu(first.fc1(x))).double()
        hidden = functional.gelu(pruned.fc1(x)).double()
        found = float((pruned.fc2(hidden.float()) - target).square().sum())
        config = NeuronPruning(keep=0.5, blocks=(0,), repair=False)
        plain = config.apply(wrapped(net), context(batches)).model.module.layers[0]
        unrepaired = float((plain.fc2(hidden.float()) - target).square().sum())
    design = np.hstack([hidden.numpy(), np.ones((len(hidden), 1))])
    best = np.linalg.lstsq(design, target.numpy(), rcond=None)[0]
    least = np.square(design @ best - target.numpy()).sum()
    # The damping costs a little against the exact solution.
    assert least <= found * (1 + 1e-6)
    assert found < least * 1.05 < unrepaired


def test_only_the_blocks_named(net: Net) -> None:
    result = NeuronPruning(keep=0.5, blocks=(1,)).apply(wrapped(net), context())
    first, second = result.model.module.layers
    assert (first.fc1.out_features, second.fc1.out_features) == (32, 16)
    assert torch.equal(first.fc2.weight, net.layers[0].fc2.weight)
    with pytest.raises(InputError, match="has no block 2"):
        NeuronPruning(keep=0.5, blocks=(2,)).apply(wrapped(net), context())


def test_global_scope_takes_where_little_is_lost(net: Net) -> None:
    # Most of the first block's neurons give next to nothing; those of the second are alike.
    net.layers[0].fc2.weight.data[:, 8:] *= 1e-3
    config = NeuronPruning(keep=0.5, multiple=4, importance="magnitude", scope="global", repair=False)
    net.layers[0].fc1.weight.data[8:] *= 1e-3
    first, second = config.apply(wrapped(net), Context()).model.module.layers
    assert first.fc1.out_features == 8
    assert second.fc1.out_features == 24


def test_nothing_left_to_round(net: Net) -> None:
    result = NeuronPruning(keep=0.9, multiple=64).apply(wrapped(net), context())
    assert not result.changed
    assert result.notes == ("Block 0 keeps its 32 neurons.", "Block 1 keeps its 32 neurons.")


def test_data_is_needed_to_repair(net: Net) -> None:
    with pytest.raises(InputError, match="Neuron pruning needs calibration data"):
        NeuronPruning(keep=0.5).apply(wrapped(net), Context())
    with pytest.raises(InputError, match="No calibration batch goes through"):
        NeuronPruning(keep=0.5, importance="magnitude").apply(wrapped(net), context([]))
    with pytest.raises(InputError, match="No calibration batch goes through"):
        NeuronPruning(keep=0.5, importance="taylor").apply(wrapped(net), context([]))


def test_progress_counts_batches(net: Net) -> None:
    seen: list[int] = []
    found = samples(3)
    NeuronPruning(keep=0.5).apply(wrapped(net), Context(calibration=lambda: found, progress=seen.append))
    assert seen == [1, 2, 3, 1, 2, 3]


def layers(net: Net) -> list[FeedForward]:
    return [block.feed_forward for block in blocks(net) if block.feed_forward is not None]


def test_magnitude_by_definition(net: Net) -> None:
    (score, _) = importance.scores(net, layers(net), "magnitude", None)
    block = net.layers[0]
    expected = [
        np.linalg.norm(np.concatenate([block.fc1.weight[i].detach(), block.fc2.weight[:, i].detach()]))
        for i in range(NEURONS)
    ]
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-5)


def test_activation_by_definition(net: Net) -> None:
    batches = samples(6)
    (score, _) = importance.scores(net, layers(net), "activation", lambda: batches)
    block = net.layers[0]
    with torch.no_grad():
        x = torch.cat([torch.from_numpy(batch["x"]) for batch in batches]).flatten(0, 1)
        hidden = functional.gelu(block.fc1(x)).double().numpy()
    outgoing = np.linalg.norm(block.fc2.weight.detach().numpy(), axis=0)
    np.testing.assert_allclose(score.numpy(), np.linalg.norm(hidden, axis=0) * outgoing, rtol=1e-4)


def test_taylor_by_definition(net: Net) -> None:
    batches = samples(4)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    (score, _) = importance.scores(net, layers(net), "taylor", lambda: batches)
    weight = net.layers[0].fc2.weight.requires_grad_()
    expected = np.zeros(NEURONS)
    for batch in batches:
        logits = net(torch.from_numpy(batch["x"]))
        loss = functional.cross_entropy(logits, logits.detach().argmax(1))
        (gradient,) = torch.autograd.grad(loss, weight)
        expected += (gradient * weight).sum(0).detach().abs().numpy() / len(batches)
    np.testing.assert_allclose(score.numpy(), expected, rtol=1e-3, atol=1e-7)


def test_taylor_of_a_normalised_embedding_measures_its_change(net: Net) -> None:
    class Encoder(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.normalize(super().forward(x), dim=1)

    encoder = Encoder().eval()
    encoder.load_state_dict(net.state_dict())
    # Neurons without a way out change nothing; of the others' gates the output's change is measured.
    encoder.layers[0].fc2.weight.data[:, :8] = 0
    batches = samples(100)
    (score, _) = importance.scores(encoder, layers(encoder), "taylor", lambda: batches, "embedding")
    assert importance.scores(encoder, layers(encoder), "taylor", lambda: batches, "embedding")[0].equal(score)
    assert (score[:8] == 0).all()
    step = 1e-2
    weight = encoder.layers[0].fc2.weight
    before = outputs(encoder, batches)
    change = []
    for index in range(8, NEURONS):
        weight.data[:, index] *= 1 + step
        change.append(float((outputs(encoder, batches) - before).norm(dim=1).mean()) / step)
        weight.data[:, index] /= 1 + step
    assert np.corrcoef(score[8:].numpy(), change)[0, 1] > 0.95


@pytest.mark.parametrize("padded", [False, True])
def test_the_fused_kernel_of_torchs_own_encoder(padded: bool) -> None:
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 2, NEURONS, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    module = Encoder().eval()
    x = torch.randn(4, 5, WIDTH)
    padding = torch.zeros(4, 5, dtype=torch.bool)
    padding[2:, 3:] = True
    feeds = {"x": x} | ({"padding": padding} if padded else {})
    for layer in module.encoder.layers:
        layer.linear2.weight.data[:, ::2] = 0
    model = AutoModel.wrap(module, feeds)
    batches = [{name: tensor.numpy() for name, tensor in feeds.items()}]
    pruned = NeuronPruning(keep=0.5).apply(model, context(batches)).model.module
    assert pruned.encoder.layers[0].linear1.out_features == 16
    kept = ~padding if padded else torch.ones_like(padding)
    slow = module(**feeds)[kept]
    with torch.inference_mode():
        torch.testing.assert_close(pruned(**feeds)[kept], slow, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pruned(**feeds)[kept], slow, atol=1e-4, rtol=1e-4)


def test_a_pruned_bert_is_exported_with_smaller_layers(bert_folder: Path, run: Callable[..., Any]) -> None:
    pytest.importorskip("transformers")
    model = AutoModel.from_pretrained(bert_folder)
    processor: Any = model.processor
    texts = ["the cat sat on the mat", "a big dog ran under the tree", "small birds slept", "the river moved"]
    batches = [processor([{"text": text}]) for text in texts]
    result = NeuronPruning(keep=0.5).apply(model, context(batches))
    assert result.notes == ("128 of 256 feed-forward neurons stay.",)
    before, after = (
        sorted(
            tuple(map(int, value.shape))
            for value in graph.graph.initializers.values()
            if value.shape.rank() > 1
        )
        for graph in (model.graph, result.model.graph)
    )
    assert sum(128 in shape for shape in before) == 2 * 2
    assert after == sorted(tuple(64 if size == 128 else size for size in shape) for shape in before)
    for batch in batches:
        with torch.no_grad():
            expected = result.model.module(**{name: torch.from_numpy(a) for name, a in batch.items()})
        found = run(result.model.graph, batch)["sentence_embedding"]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    assert model.module.model.config.intermediate_size == 128
