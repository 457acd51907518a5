"""Finding the blocks of the common families, and pruning their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from openglm.errors import InputError  # noqa: E402
from openglm.passes.structure.blocks import blocks, prunable, prune  # noqa: E402

WORDS = {"vocab_size": 50, "max_position_embeddings": 32, "attn_implementation": "eager"}
ENCODER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
SEQUENCES = {
    "d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "pad_token_id": 1,
    "decoder_start_token_id": 1,
}  # fmt: skip


def _llama(kind: str) -> Any:
    config = {**ENCODER, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8}
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**WORDS | config))


FAMILIES: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**WORDS, **ENCODER)),
    "bert-sdpa": lambda: transformers.BertModel(
        transformers.BertConfig(**WORDS | ENCODER | {"attn_implementation": "sdpa"})
    ),
    "roberta": lambda: transformers.RobertaModel(
        transformers.RobertaConfig(**WORDS, **ENCODER, pad_token_id=1)
    ),
    "electra": lambda: transformers.ElectraModel(
        transformers.ElectraConfig(**WORDS, **ENCODER, embedding_size=16)
    ),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(**WORDS, dim=24, n_layers=2, n_heads=3, hidden_dim=40)
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**ENCODER, image_size=16, patch_size=8)),
    "dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2, image_size=16,
            patch_size=8,
        )
    ),
    "llama": lambda: _llama("Llama"),
    "qwen2": lambda: _llama("Qwen2"),
    "qwen3": lambda: _llama("Qwen3"),
    "mistral": lambda: _llama("Mistral"),
    "opt": lambda: transformers.OPTModel(
        transformers.OPTConfig(
            **WORDS, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, ffn_dim=40,
            word_embed_proj_dim=24,
        )
    ),
    "bart": lambda: transformers.BartModel(transformers.BartConfig(**WORDS, **SEQUENCES)),
    "marian": lambda: transformers.MarianModel(transformers.MarianConfig(**WORDS, **SEQUENCES)),
    "clip": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**WORDS, **ENCODER)),
}  # fmt: skip


def network(family: str) -> Any:
    torch.manual_seed(0)
    module = FAMILIES[family]().eval()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            # As a fresh model is, its layers hardly change what goes through them.
            nn.init.normal_(parameter, std=0.2)
    return module


def output(module: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if module.main_input_name == "pixel_values":
            found = module(pixel_values=torch.randn(2, 3, 16, 16, generator=generator))
        else:
            tokens = torch.randint(3, 50, (2, 7), generator=generator)
            extra = {"decoder_input_ids": tokens[:, :4]} if module.config.is_encoder_decoder else {}
            found = module(input_ids=tokens, **extra)
    return found.last_hidden_state


class Plain(nn.Module):
    """A block with names of a family, around whatever stands between its two layers."""

    def __init__(self, between: nn.Module | None = None) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(4, 12), nn.Linear(12, 4)
        self.mlp.norm = between or nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp.fc2(self.mlp.norm(self.mlp.fc1(x)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found(family: str) -> None:
    found = blocks(network(family))
    assert len(found) == (3 if family in ("bart", "marian") else 2)
    assert [block.index for block in found] == list(range(len(found)))
    for block in found:
        attention, dense = block.attention, block.feed_forward
        assert attention is not None
        assert dense is not None
        grouped = family in ("llama", "qwen2", "qwen3", "mistral")
        assert (attention.heads, attention.kv_heads, attention.head_size) == (6 if grouped else 3, 3, 8)
        assert dense.neurons == (48 if family == "dinov2" else 40)
        assert len(dense.inputs) == (2 if grouped else 1)


def test_encoder_and_decoder_are_containers_of_their_own() -> None:
    found = blocks(network("bart"))
    places = [(block.container, block.position) for block in found]
    assert places == [("encoder.layers", 0), ("decoder.layers", 0), ("decoder.layers", 1)]
    assert [block.name for block in found] == ["encoder.layers.0", "decoder.layers.0", "decoder.layers.1"]
    # The decoder's attention to itself, not to the encoder.
    assert found[1].attention is not None
    assert found[1].attention.output == "decoder.layers.0.self_attn.out_proj"


def test_blocks_in_a_sequence_of_other_layers() -> None:
    found = blocks(nn.Sequential(nn.Linear(4, 4), Plain(), nn.Identity(), Plain()))
    assert [(block.name, block.index, block.position) for block in found] == [("1", 0, 1), ("3", 1, 3)]


def test_fused_projections_are_left_out() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    (first, second) = blocks(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    assert first.attention is second.attention is None
    assert first.feed_forward is not None
    assert first.feed_forward.neurons == 16
    both_in_one = Plain()
    both_in_one.mlp.fc1 = nn.Linear(4, 24)
    assert blocks(nn.ModuleList([both_in_one])) == []


def test_no_blocks_elsewhere() -> None:
    assert blocks(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))) == []
    assert blocks(nn.ModuleList([None, nn.Linear(2, 2)])) == []
    with pytest.raises(InputError, match="No transformer blocks were found in net"):
        prunable(nn.Linear(2, 2), "attention", None, "net")


@pytest.mark.parametrize("part", ["attention", "feed_forward"])
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_that_give_nothing_can_go(family: str, part: Any) -> None:
    module = network(family)
    before = output(module)
    found, notes = prunable(module, part, None, family)
    assert notes == []
    kept = torch.tensor([0, 2] if part == "attention" else [*range(7), *range(15, 31)])
    for block in found:
        layer: Any = getattr(block, part)
        weight = module.get_submodule(layer.output).weight
        gone = torch.ones(layer.groups, dtype=torch.bool)
        gone[kept] = False
        weight.data.view(len(weight), layer.groups, -1)[:, gone] = 0
    silent = output(module)
    for block in found:
        prune(module, getattr(block, part), kept)
    assert not torch.allclose(before, silent, atol=1e-2)
    torch.testing.assert_close(output(module), silent, atol=1e-5, rtol=1e-5)
    # And the smaller module is described as it is now.
    for old, new in zip(found, blocks(module), strict=True):
        assert getattr(new, part).groups == len(kept)
        if part == "attention":
            assert old.attention is not None
            assert new.attention is not None
            assert new.attention.heads == old.attention.heads // 3 * 2
            assert new.attention.head_size == old.attention.head_size
    assert sum(weights.numel() for weights in module.parameters()) < sum(
        weights.numel() for weights in network(family).parameters()
    )


def test_the_order_kept_is_the_order_given() -> None:
    module = nn.ModuleList([Plain()])
    layer = module[0].mlp.fc1
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.weight.requires_grad_(False)
    part = blocks(module)[0].feed_forward
    assert part is not None
    prune(module, part, torch.tensor([5, 1]))
    assert torch.equal(layer.weight, weight[[5, 1]])
    assert torch.equal(layer.bias, bias[[5, 1]])
    assert (layer.out_features, module[0].mlp.fc2.in_features) == (2, 2)
    assert not layer.weight.requires_grad
    assert module[0].mlp.fc2.weight.requires_grad


def test_shared_weights_stay() -> None:
    first, second, third = Plain(), Plain(), Plain()
    second.mlp.fc2.weight = first.mlp.fc2.weight
    usable, notes = prunable(nn.ModuleList([first, second, third]), "feed_forward", None, "net")
    assert [block.index for block in usable] == [2]
    assert [note.split(":")[0] for note in notes] == ["Block 0 stays", "Block 1 stays"]


def test_a_block_listed_twice_stays() -> None:
    again = Plain()
    module = nn.ModuleList([again, again])
    assert [block.name for block in blocks(module)] == ["0", "1"]
    with pytest.raises(InputError, match="another layer uses the weights"):
        prunable(module, "feed_forward", None, "net")


def test_a_module_with_two_names_is_one() -> None:
    module = nn.Module()
    module.layers = nn.ModuleList([Plain()])
    module.alias = module.layers
    usable, notes = prunable(module, "feed_forward", None, "net")
    assert ([block.name for block in usable], notes) == (["layers.0"], [])


def test_a_norm_over_the_neurons_keeps_them() -> None:
    module = nn.ModuleList([Plain(nn.LayerNorm(12)), Plain()])
    usable, notes = prunable(module, "feed_forward", None, "net")
    assert [block.index for block in usable] == [1]
    assert notes == ["Block 0 stays: 0.mlp.norm.weight is as wide as its feed-forward layer."]


def test_a_bias_for_each_head_keeps_them() -> None:
    module = network("bert")
    module.encoder.layer[1].attention.self.register_parameter("slopes", nn.Parameter(torch.ones(3, 1, 1)))
    usable, notes = prunable(module, "attention", None, "net")
    assert [block.index for block in usable] == [0]
    assert notes == ["Block 1 stays: encoder.layer.1.attention.self.slopes is as wide as its attention."]


def test_blocks_that_are_not_there() -> None:
    with pytest.raises(InputError, match="net has no block 2"):
        prunable(network("bert"), "attention", (1, 2), "net")
    with pytest.raises(InputError, match="it has no attention of separate linear layers"):
        prunable(nn.ModuleList([Plain()]), "attention", None, "net")


def test_generating_with_a_cache_after_pruning() -> None:
    module = network("llama")
    for block in blocks(module):
        assert block.attention is not None
        prune(module, block.attention, torch.tensor([1]))
    tokens = torch.arange(3, 9)[None]
    with torch.no_grad():
        whole = module(input_ids=tokens).last_hidden_state
        start = module(input_ids=tokens[:, :4], use_cache=True)
        rest = module(input_ids=tokens[:, 4:], past_key_values=start.past_key_values).last_hidden_state
    torch.testing.assert_close(rest, whole[:, 4:], atol=1e-5, rtol=1e-5)
