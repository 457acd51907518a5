"""Language models: tokens a second. Prefill is bound by arithmetic, decoding by reading the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from openglm.device.latency import BANDWIDTH_SHARE, LatencyPrediction
from openglm.device.profile import Device
from openglm.model.analysis.statistics import Statistics

KV_BYTES = 4
"""Bytes of an element of the key-value cache: float, as ONNX Runtime keeps it on a CPU."""


class TokenRate(BaseModel):
    """How fast a language model reads a prompt and writes an answer, and what its memory grows by."""

    model_config = ConfigDict(frozen=True)

    prefill_per_s: float
    """Tokens of the prompt read a second."""
    decode_per_s: float
    """Tokens written a second, one sequence, with `context` tokens before."""
    context: int
    kv_bytes_per_token: int | None
    """What each token of context adds to the memory; none where the configuration does not say."""


def kv_bytes_per_token(config: Mapping[str, Any]) -> int | None:
    """Keys and values of one token in all layers, in bytes, from a transformers configuration."""
    config = config.get("text_config", config)
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if not layers or not heads:
        return None
    size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return int(2 * layers * (config.get("num_key_value_heads") or heads) * size * KV_BYTES) or None


def token_rate(
    statistics: Statistics, config: Mapping[str, Any], latency: LatencyPrediction, device: Device
) -> TokenRate | None:
    """The token rates of a model whose graph was analysed at some length of prompt.

    Each written token reads every weight of a product once and the whole cache (its embedding is one
    row); its arithmetic is a prompt token's. None for a graph whose first input has no length.
    """
    tokens = _prompt_tokens(statistics)
    if not tokens or latency.ms <= 0:
        return None
    kv = kv_bytes_per_token(config)
    moved = sum(layer.weight_bytes for layer in statistics.layers if layer.macs) + (kv or 0) * tokens
    reading = moved / (device.memory.bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE)
    return TokenRate(
        prefill_per_s=tokens / latency.ms * 1000,
        decode_per_s=1 / max(reading, latency.ms / 1000 / tokens),
        context=tokens,
        kv_bytes_per_token=kv,
    )


def _prompt_tokens(statistics: Statistics) -> int:
    info = (
        statistics.shapes.of.get(statistics.shapes.graph.inputs[0])
        if statistics.shapes.graph.inputs
        else None
    )
    return info.shape[1] if info is not None and len(info.shape) == 2 else 0
