"""Head pruning, against its definition and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from openglm import AutoModel  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model  # noqa: E402
from openglm.passes.contract import Context, parse_step  # noqa: E402
from openglm.passes.heads import HeadPruning  # noqa: E402
from openglm.passes.structure import importance  # noqa: E402
from openglm.passes.structure.blocks import blocks  # noqa: E402

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "attn_implementation": "eager",
}  # fmt: skip


class Words(nn.Module):
    """A transformers model with one tensor as its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        torch.manual_seed(0)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                # As a fresh model is, its attention is even and hardly changes what goes through it.
                nn.init.normal_(parameter, std=0.2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.network(input_ids=input_ids, use_cache=False).last_hidden_state


def bert(heads: int = 4) -> Model:
    return _wrapped(transformers.BertModel(transformers.BertConfig(**SIZES, num_attention_heads=heads)))


def llama(kv_heads: int) -> Model:
    config = transformers.LlamaConfig(
        **SIZES, num_attention_heads=8, num_key_value_heads=kv_heads, head_dim=8
    )
    return _wrapped(transformers.LlamaModel(config))


def _wrapped(network: nn.Module) -> Model:
    return AutoModel.wrap(Words(network).eval(), {"input_ids": torch.arange(14).reshape(2, 7)})


def sentences(count: int = 30) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"input_ids": rng.integers(0, 50, (1, 7))} for _ in range(count)]


def context() -> Context:
    return Context(calibration=sentences)


def outputs(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.from_numpy(np.concatenate([batch["input_ids"] for batch in sentences()])))


def silence(model: Model, gone: list[int], size: int) -> None:
    """Heads that give nothing: of each block those in `gone`, of `size` features."""
    for block in blocks(model.module):
        assert block.attention is not None
        weight = model.module.get_submodule(block.attention.output).weight
        weight.data.view(len(weight), -1, size)[:, gone] = 0


def test_code_and_recipe() -> None:
    assert HeadPruning(keep=0.5).code == "head_pruning_0.5"
    every = HeadPruning(keep=0.25, importance="taylor", blocks=(1,), repair=False)
    assert every.code == "head_pruning_0.25_taylor_blocks_1_unrepaired"
    assert parse_step(every.to_recipe()) == every
    for wrong in ({"keep": 0}, {"keep": 1}, {"keep": 0.5, "importance": "none"}):
        with pytest.raises(ValidationError):
            HeadPruning(**wrong)


@pytest.mark.parametrize("scores", ["taylor", "activation"])
def test_heads_that_give_nothing_go_unnoticed(scores: Any) -> None:
    model = bert()
    silence(model, [0, 3], 8)
    state = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    result = HeadPruning(keep=0.5, importance=scores, repair=False).apply(model, context())
    assert result.changed
    assert result.notes == ("4 of 8 attention heads stay.",)
    for old, new in zip(
        model.module.network.encoder.layer, result.model.module.network.encoder.layer, strict=True
    ):
        assert torch.equal(new.attention.self.value.weight, old.attention.self.value.weight[8:24])
        assert new.attention.self.num_attention_heads == 2
        assert new.attention.self.all_head_size == 16
    torch.testing.assert_close(outputs(result.model.module), outputs(model.module), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.module.state_dict().items())


def test_magnitude_keeps_the_largest_heads() -> None:
    model = bert()
    attention = model.module.network.encoder.layer[1].attention
    for layer in (attention.self.query, attention.self.key, attention.self.value):
        layer.weight.data[16:24] *= 10
    found = blocks(model.module)[1].attention
    assert found is not None
    (score,) = importance.scores(model.module, [found], "magnitude", None)
    rows = [layer.weight.detach()[16:24] for layer in (attention.self.query, attention.self.key)]
    rows += [attention.self.value.weight.detach()[16:24], attention.output.dense.weight.detach()[:, 16:24]]
    assert float(score[2]) == pytest.approx(float(torch.cat([row.flatten() for row in rows]).norm()))
    config = HeadPruning(keep=0.01, importance="magnitude", blocks=(1,), repair=False)
    module = config.apply(model, Context()).model.module
    assert blocks(module)[0].attention == blocks(model.module)[0].attention
    smaller = module.network.encoder.layer[1].attention.self
    assert torch.equal(smaller.key.weight, attention.self.key.weight[16:24])


def test_repair_is_least_squares() -> None:
    model = bert()
    inputs: dict[nn.Module, torch.Tensor] = {}

    def watch(module: nn.Module) -> tuple[torch.Tensor, nn.Module]:
        layer = module.network.encoder.layer[0].attention.output.dense
        hook = layer.register_forward_pre_hook(lambda layer, given: inputs.update({layer: given[0]}))
        outputs(module)
        hook.remove()
        return inputs[layer].flatten(0, 1).double(), layer.double()

    modules = [model.module] + [
        HeadPruning(keep=0.5, blocks=(0,), repair=repair).apply(model, context()).model.module
        for repair in (True, False)
    ]
    (whole, original), (heads, repaired), (_, plain) = map(watch, modules)
    with torch.no_grad():
        target = original(whole)
        errors = [float((layer(heads) - target).square().sum()) for layer in (repaired, plain)]
    design = np.hstack([heads.numpy(), np.ones((len(heads), 1))])
    best = np.linalg.lstsq(design, target.numpy(), rcond=None)[0]
    least = float(np.square(design @ best - target.numpy()).sum())
    # The damping costs a little against the exact solution.
    assert least * (1 - 1e-6) <= errors[0] < least * 1.05 < errors[1]


def test_repair_makes_up_for_heads_that_say_the_same() -> None:
    model = bert()
    for layer in model.module.network.encoder.layer:
        for name in ("query", "key", "value"):
            weight = getattr(layer.attention.self, name).weight.data
            weight[8:16], weight[24:32] = weight[:8], weight[16:24]
        columns = layer.attention.output.dense.weight.data
        columns[:, 8:16] *= 0.2
        columns[:, 24:32] *= 0.2
    errors = []
    for repair in (True, False):
        module = HeadPruning(keep=0.5, repair=repair).apply(model, context()).model.module
        errors.append(float((outputs(module) - outputs(model.module)).square().mean()))
    assert errors[0] < errors[1] / 100


def test_heads_of_keys_go_with_all_they_serve() -> None:
    model = llama(4)
    silence(model, [1], 16)
    result = HeadPruning(keep=0.75, repair=False).apply(model, context())
    assert result.notes == ("12 of 16 attention heads stay.",)
    for block in blocks(result.model.module):
        assert block.attention is not None
        assert (block.attention.heads, block.attention.kv_heads) == (6, 3)
    torch.testing.assert_close(outputs(result.model.module), outputs(model.module), atol=1e-5, rtol=1e-5)


def test_a_single_head_of_keys_stays() -> None:
    result = HeadPruning(keep=0.5).apply(llama(1), context())
    assert not result.changed
    assert result.notes == ("Block 0 keeps its 8 heads.", "Block 1 keeps its 8 heads.")


def test_widths_that_kernels_do_not_like_are_named() -> None:
    model = bert(heads=8)
    result = HeadPruning(keep=0.4, importance="magnitude", repair=False).apply(model, Context())
    assert result.notes[1:] == tuple(
        f"Block {index} has heads of 12 features together, no multiple of 8." for index in (0, 1)
    )


def test_what_cannot_be_pruned() -> None:
    with pytest.raises(InputError, match="Head pruning needs calibration data"):
        HeadPruning(keep=0.5).apply(bert(), Context())
    fused = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    model = AutoModel.wrap(fused, {"src": torch.randn(1, 3, 8)})
    with pytest.raises(InputError, match="it has no attention of separate linear layers"):
        HeadPruning(keep=0.5, importance="magnitude", repair=False).apply(model, Context())


def test_a_pruned_llama_is_exported_with_smaller_layers(run: Callable[..., Any]) -> None:
    model = HeadPruning(keep=0.75).apply(llama(4), context()).model
    shapes = [sorted(map(int, value.shape)) for value in model.graph.graph.initializers.values()]
    assert shapes.count([32, 48]) == 2 * 2  # six heads of eight, of queries and into the output
    assert shapes.count([24, 32]) == 2 * 2  # three of keys and of values
    feeds = {"input_ids": np.arange(21).reshape(3, 7)}
    with torch.no_grad():
        expected = model.module(torch.from_numpy(feeds["input_ids"])).numpy()
    (found,) = run(model.graph, feeds).values()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pruned_bert_is_exported_with_smaller_layers(bert_folder: Path, run: Callable[..., Any]) -> None:
    model = AutoModel.from_pretrained(bert_folder)
    processor: Any = model.processor
    batches = [processor([{"text": text}]) for text in ("the cat sat on the mat", "a dog ran", "birds slept")]
    pruned = HeadPruning(keep=0.5).apply(model, Context(calibration=lambda: batches)).model
    shapes = [sorted(map(int, value.shape)) for value in pruned.graph.graph.initializers.values()]
    assert shapes.count([32, 64]) == 2 * 4
    for batch in batches:
        with torch.no_grad():
            expected = pruned.module(**{name: torch.from_numpy(a) for name, a in batch.items()})
        found = run(pruned.graph, batch)["sentence_embedding"]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
