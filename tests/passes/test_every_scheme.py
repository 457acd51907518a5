"""Every scheme on real exports: a small BERT and a small network of convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from openglm.model.sources.module import export
from openglm.passes.contract import Applied, GraphPass
from openglm.passes.dequantize import Dequantize
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fp16 import Half
from openglm.passes.fuse import Fuse
from openglm.passes.static_wi8_ai8 import StaticInt8
from openglm.passes.wi4_afp32 import WeightInt4
from openglm.passes.wi8_afp32 import WeightInt8

Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]
Feeds = dict[str, np.ndarray]

SCHEMES: list[GraphPass] = [
    Fuse(),
    DynamicInt8(),
    DynamicInt8(per_channel=False, weight_bits=7),
    StaticInt8(),
    StaticInt8(method="percentile", symmetric=True),
    StaticInt8(method="entropy", per_channel=False),
    WeightInt8(),
    WeightInt8(compute="int8", group_size=32),
    WeightInt4(),
    WeightInt4(symmetric=False, embeddings="int4", compute="int8", group_size=16),
    Half(),
    Half(compute="fp16"),
]


@pytest.fixture(scope="module")
def bert() -> ir.Model:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=64, num_labels=3, attn_implementation="sdpa",
    )  # fmt: skip
    network: Any = transformers.BertForSequenceClassification(config)
    for parameter in network.parameters():
        # A fresh initialisation gives logits that are all but equal; trained weights are larger.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=1, max=64)
    ids = torch.arange(14).reshape(2, 7)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    shapes = {name: {0: batch, 1: length} for name in example}
    network.config.return_dict = False
    return export(network, example, dynamic_shapes=shapes, output_names=["logits"])


def sentences(batch: int, length: int) -> Feeds:
    rng = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int64)
    mask[-1, length // 2 + 1 :] = 0
    return {"input_ids": rng.integers(0, 300, (batch, length)), "attention_mask": mask}


@pytest.fixture(scope="module")
def vision() -> ir.Model:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(16, 32, 1)
            self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
            self.norm = nn.BatchNorm2d(32)
            self.thin = nn.Conv2d(32, 16, 1)

        def forward(self, x: Any) -> Any:
            return x + self.thin(torch.relu(self.norm(self.deep(nn.functional.relu6(self.wide(x))))))

    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish(), Block(), Block(), nn.AdaptiveAvgPool2d(1)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 300))
    return export(network, {"input": torch.randn(2, 3, 16, 16)}, output_names=["logits"])


def pictures(batch: int) -> Feeds:
    return {"input": np.random.default_rng(batch).normal(size=(batch, 3, 16, 16)).astype(np.float32)}


def alike(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("config", SCHEMES, ids=lambda config: str(config.code))
def test_on_a_transformer(bert: ir.Model, run: Run, apply: Apply, config: GraphPass, fused: bool) -> None:
    def batches() -> Iterator[Feeds]:
        for length in (5, 12, 20, 64):
            yield sentences(2, length)

    start = apply(Fuse(), bert).graph if fused else bert
    result = apply(config, start, list(batches()))
    assert result.changed or isinstance(config, Fuse)
    for batch, length in ((1, 1), (1, 20), (3, 7), (3, 64)):
        feeds = sentences(batch, length)
        before, after = run(bert, feeds)["logits"], run(result.graph, feeds)["logits"]
        assert after.shape == before.shape == (batch, 3)
        assert np.isfinite(after).all()
        assert alike(before, after) > 0.95
    size = [len(ir.to_proto(model).SerializeToString()) for model in (bert, result.graph)]
    assert size[1] < size[0] * (1.02 if isinstance(config, Fuse) else 0.85)


@pytest.mark.parametrize("config", SCHEMES, ids=lambda config: str(config.code))
def test_on_convolutions(vision: ir.Model, run: Run, apply: Apply, config: GraphPass) -> None:
    result = apply(config, apply(Fuse(), vision).graph, [pictures(8), pictures(5)])
    for batch in (1, 3):
        before, after = run(vision, pictures(batch))["logits"], run(result.graph, pictures(batch))["logits"]
        assert after.shape == before.shape == (batch, 300)
        assert np.isfinite(after).all()
        assert alike(before, after) > 0.97


QUANTIZED = {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "MatMulNBits"}


@pytest.mark.parametrize("config", SCHEMES[1:], ids=lambda config: str(config.code))
def test_is_undone_but_for_what_was_rounded(
    bert: ir.Model, vision: ir.Model, run: Run, apply: Apply, config: GraphPass
) -> None:
    for source, feeds in ((bert, sentences(3, 20)), (vision, pictures(3))):
        quantized = apply(config, apply(Fuse(), source).graph, [feeds])
        if not quantized.changed:
            continue
        result = apply(Dequantize(), quantized.graph)
        assert result.changed
        for node in result.graph.graph:
            assert not node.domain
            assert node.op_type not in QUANTIZED
        kinds = {value.dtype for value in result.graph.graph.initializers.values()}
        assert not kinds & {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.FLOAT16, ir.DataType.INT4}
        before, after = run(quantized.graph, feeds)["logits"], run(result.graph, feeds)["logits"]
        assert alike(before, after) > 0.995
        weights = isinstance(config, WeightInt8 | WeightInt4) and config.compute == "fp32"
        if weights or config == Half():
            np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())


def test_query_key_and_value_of_every_layer_are_joined(bert: ir.Model, apply: Apply) -> None:
    result = apply(Fuse(), bert)
    assert [node.op_type for node in result.graph.graph].count("Split") == 2
    assert result.notes == ("6 parallel linear layers became fewer, larger ones.",)


def test_convolutions_and_their_sums_are_in_integers(vision: ir.Model, apply: Apply) -> None:
    result = apply(StaticInt8(), vision, [pictures(8)]).graph
    for node in result.graph:
        if node.op_type == "Add" or (node.op_type == "Conv" and node.inputs[0].name != "input"):
            assert all(value.producer().op_type == "DequantizeLinear" for value in node.inputs[:2])
