"""Layer pruning, against models built with fewer blocks and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from openglm import AutoModel  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context, parse_step  # noqa: E402
from openglm.passes.early_exit import EarlyExit  # noqa: E402
from openglm.passes.layers import LayerPruning, evenly  # noqa: E402
from openglm.passes.structure.blocks import blocks  # noqa: E402
from openglm.passes.structure.residuals import residuals  # noqa: E402
from openglm.passes.token_pruning import TokenPruning  # noqa: E402

BLOCKS = 5
WORDS = {"vocab_size": 50, "max_position_embeddings": 32, "attn_implementation": "eager"}
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]


def bert(count: int) -> Any:
    return transformers.BertModel(transformers.BertConfig(**WORDS, **SIZES, num_hidden_layers=count))


def distilbert(count: int) -> Any:
    config = transformers.DistilBertConfig(**WORDS, dim=16, n_heads=2, hidden_dim=24, n_layers=count)
    return transformers.DistilBertModel(config)


def qwen(count: int, kinds: list[str] | None = None) -> Any:
    config = transformers.Qwen2Config(
        **WORDS, **SIZES, num_hidden_layers=count, num_key_value_heads=1, sliding_window=2,
        use_sliding_window=True, layer_types=kinds or SLIDING[:count],
    )  # fmt: skip
    return transformers.Qwen2Model(config)


def bart(encoder: int, decoder: int) -> Any:
    config = transformers.BartConfig(
        **WORDS, d_model=16, encoder_layers=encoder, decoder_layers=decoder, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
    )  # fmt: skip
    return transformers.BartModel(config)


class Words(nn.Module):
    """A transformers model with one tensor as its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        torch.manual_seed(0)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=input_ids, use_cache=False).last_hidden_state


def wrapped(network: nn.Module) -> Model:
    return AutoModel.wrap(Words(network).eval(), {"input_ids": torch.arange(14).reshape(2, 7)})


def sentences(count: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(3, 50, (1, 7))} for _ in range(count)]


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.from_numpy(np.concatenate([batch["input_ids"] for batch in sentences()])))


def by_hand(small: nn.Module, whole: nn.Module, container: str, kept: list[int]) -> nn.Module:
    """The small network with the weights of the whole one, its blocks those of `kept`."""
    state = {
        name: tensor for name, tensor in whole.state_dict().items() if not name.startswith(f"{container}.")
    }
    for place, index in enumerate(kept):
        block = whole.get_submodule(f"{container}.{index}").state_dict()
        state |= {f"{container}.{place}.{name}": tensor for name, tensor in block.items()}
    small.load_state_dict(state)
    return small.eval()


def test_code_and_recipe() -> None:
    assert LayerPruning(keep=4).code == "layer_pruning_4"
    assert LayerPruning(keep=4, which="even").code == "layer_pruning_4_even"
    exact = LayerPruning(layers=(0, 2, 5))
    assert exact.code == "layer_pruning_layers_0_2_5"
    assert parse_step(exact.to_recipe()) == exact
    wrong: list[dict[str, Any]] = [
        {}, {"keep": 0}, {"keep": 1, "layers": (0,)}, {"layers": ()}, {"layers": (-1,)}, {"layers": (2, 1)},
        {"layers": (1, 1)}, {"keep": 2, "which": "last"},
    ]  # fmt: skip
    for fields in wrong:
        with pytest.raises(ValidationError):
            LayerPruning(**fields)


@given(st.integers(1, 100).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))))
def test_even_distances(sizes: tuple[int, int]) -> None:
    count, keep = sizes
    found = evenly(count, keep)
    assert len(found) == keep
    assert found[0] == 0
    if keep > 1:
        assert found[-1] == count - 1
        gaps = set(np.diff(found))
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("build", "container"), [(bert, "encoder.layer"), (distilbert, "transformer.layer"), (qwen, "layers")]
)
def test_as_a_model_built_without_them(build: Callable[..., Any], container: str) -> None:
    model = wrapped(build(BLOCKS))
    whole = model.module.network
    before = outputs(model.module)
    result = LayerPruning(layers=(0, 2, 3)).apply(model, Context())
    assert result.changed
    assert result.notes == ("Of 5 blocks these stay: 0, 2, 3.",)
    pruned = result.model.module
    kinds = {"kinds": [SLIDING[index] for index in (0, 2, 3)]} if build is qwen else {}
    small = Words(build(3, **kinds))
    by_hand(small.network, whole, container, [0, 2, 3])
    assert torch.equal(outputs(pruned), outputs(small))
    assert pruned.network.config.num_hidden_layers == 3
    # What was given is as it was, its config too.
    assert whole.config.num_hidden_layers == BLOCKS
    assert torch.equal(outputs(model.module), before)
    assert len(blocks(whole)) == BLOCKS


def test_generating_with_a_cache() -> None:
    module = LayerPruning(layers=(1, 2, 4)).apply(wrapped(qwen(BLOCKS)), Context()).model.module.network
    assert module.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert [layer.self_attn.layer_idx for layer in module.layers] == [0, 1, 2]
    tokens = torch.arange(3, 10)[None]
    with torch.no_grad():
        whole = module(input_ids=tokens).last_hidden_state
        start = module(input_ids=tokens[:, :4], use_cache=True)
        rest = module(input_ids=tokens[:, 4:], past_key_values=start.past_key_values).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 4:], atol=1e-5, rtol=1e-5)


def test_encoder_and_decoder_are_cut_alike() -> None:
    model = wrapped(bart(2, 3))
    result = LayerPruning(keep=2, which="even").apply(model, Context())
    assert result.notes == (
        "All 2 blocks of network.encoder.layers stay.",
        "Of 3 blocks of network.decoder.layers these stay: 0, 2.",
    )
    pruned = result.model.module
    assert (pruned.network.config.encoder_layers, pruned.network.config.decoder_layers) == (2, 2)
    small = Words(bart(2, 2))
    by_hand(small.network, model.module.network, "decoder.layers", [0, 2])
    assert torch.equal(outputs(pruned), outputs(small))


def test_the_least_important_block_goes_first() -> None:
    model = wrapped(bert(BLOCKS))
    layers = model.module.network.encoder.layer
    # A block whose outputs are nothing beside its inputs only normalises these once more.
    for part in (layers[3].attention.output.dense, layers[3].output.dense):
        part.weight.data *= 1e-3
    batches = sentences()
    seen: list[int] = []
    context = Context(calibration=lambda: batches, progress=seen.append)
    result = LayerPruning(keep=4).apply(model, context)
    assert result.notes == ("Of 5 blocks these stay: 0, 1, 2, 4.",)
    assert seen == list(range(1, len(batches) + 1))
    # The next, among those that are left, by trying each.
    target = outputs(model.module)
    errors = {}
    for index in (0, 1, 2, 4):
        others = tuple(other for other in (0, 1, 2, 4) if other != index)
        found = outputs(LayerPruning(layers=others).apply(model, Context()).model.module)
        relative = (found - target).square().sum((1, 2)) / target.square().sum((1, 2))
        errors[others] = float(relative.mean())
    best = min(errors, key=errors.__getitem__)
    result = LayerPruning(keep=3).apply(model, context)
    assert result.notes == (f"Of 5 blocks these stay: {', '.join(map(str, best))}.",)
    small = LayerPruning(layers=best).apply(model, Context()).model.module
    assert torch.equal(outputs(result.model.module), outputs(small))


def test_first() -> None:
    result = LayerPruning(keep=2, which="first").apply(wrapped(bert(BLOCKS)), Context())
    assert result.notes == ("Of 5 blocks these stay: 0, 1.",)


def test_blocks_among_other_layers() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.fc2(self.fc1(x).relu())

    net = nn.Sequential(nn.Linear(4, 4), Block(), Block(), Block(), nn.Linear(4, 2))
    model = AutoModel.wrap(net, {"input": torch.randn(1, 4)})
    pruned = LayerPruning(layers=(0, 2)).apply(model, Context()).model.module
    x = torch.randn(6, 4)
    assert torch.equal(pruned(x), net[4](net[3](net[1](net[0](x)))))


def test_torchs_own_encoder_counts_its_layers() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4).eval()
    model = AutoModel.wrap(encoder, {"src": torch.randn(1, 3, 8)})
    pruned = LayerPruning(keep=3, which="first").apply(model, Context()).model.module
    assert (pruned.num_layers, encoder.num_layers) == (3, 4)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(pruned(x), encoder.layers[2](encoder.layers[1](encoder.layers[0](x))))


def test_what_cannot_be_pruned() -> None:
    model = wrapped(bert(2))
    result = LayerPruning(keep=2).apply(model, Context())
    assert (result.changed, result.notes) == (False, ("All 2 blocks stay.",))
    for config in (LayerPruning(keep=3), LayerPruning(layers=(0, 2))):
        with pytest.raises(InputError, match="has 2 blocks, fewer than the 3"):
            config.apply(model, Context())
    with pytest.raises(InputError, match='Layer pruning by "importance" needs calibration data'):
        LayerPruning(keep=1).apply(model, Context())
    with pytest.raises(InputError, match="holds no sample"):
        LayerPruning(keep=1).apply(model, Context(calibration=lambda: []))
    with pytest.raises(InputError, match="No transformer blocks were found"):
        LayerPruning(keep=1).apply(AutoModel.wrap(nn.Linear(2, 2), {"input": torch.ones(1, 2)}), Context())


def test_a_pruned_bert_is_exported_without_the_block(bert_folder: Path, run: Callable[..., Any]) -> None:
    model = AutoModel.from_pretrained(bert_folder)
    processor: Any = model.processor
    batches = [processor([{"text": text}]) for text in ("the cat sat on the mat", "a dog ran", "birds slept")]
    pruned = LayerPruning(keep=1).apply(model, Context(calibration=lambda: batches)).model
    shapes = [sorted(map(int, value.shape)) for value in pruned.graph.graph.initializers.values()]
    assert shapes.count([64, 128]) == 2
    for batch in batches:
        with torch.no_grad():
            expected = pruned.module(**{name: torch.from_numpy(a) for name, a in batch.items()})
        found = run(pruned.graph, batch)["sentence_embedding"]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_layers_that_exits_hang_on_stay(write_classifier: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(write_classifier(tmp_path, layers=3, classes=2))
    processor: Any = model.processor
    context = Context(calibration=lambda: iter([processor([{"text": "the cat sat"}])]))
    for config in (EarlyExit(), TokenPruning()):
        with pytest.raises(InputError, match="after exits or token pruning"):
            LayerPruning(keep=2, which="first").apply(config.apply(model, context).model, context)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, scale: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()
        self.second.weight.data *= scale
        self.second.bias.data *= scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.second(torch.relu(self.first(x))))


def residual_net() -> nn.Module:
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU()),
        nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1, scale=1e-3)),
        nn.Sequential(Residual(8, 16, 2), Residual(16, 16, 1)),
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def test_blocks_of_a_network_of_convolutions(run: Callable[..., Any]) -> None:
    net = residual_net()
    model = AutoModel.wrap(net, {"input": torch.randn(1, 3, 8, 8)}, task="image-classification")
    pictures = [{"input": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)}]
    result = LayerPruning(keep=2).apply(model, Context(calibration=lambda: pictures))
    assert result.notes == ("Of 3 blocks these stay: 0, 2.",), "the one that does hardly anything goes"
    x = torch.from_numpy(pictures[0]["input"])
    expected = net[3:](net[2](net[1][0](net[0](x))))
    assert torch.equal(result.model.module(x), expected)
    np.testing.assert_allclose(
        next(iter(run(result.model.graph, pictures[0]).values())), expected.detach().numpy(), atol=1e-5
    )

    def convolutions(graph: Any) -> int:
        return sum(node.op_type == "Conv" for node in graph.graph)

    assert convolutions(result.model.graph) == convolutions(model.graph) - 2
    with pytest.raises(InputError, match="has 3 blocks, fewer than the 4"):
        LayerPruning(keep=4).apply(model, Context())


def test_what_changes_the_shape_stays() -> None:
    found = residuals(residual_net())
    assert [block.block.first.in_channels for block in found] == [8, 8, 16]
    assert not residuals(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3))))
    assert residuals(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 3, padding="same"))))
