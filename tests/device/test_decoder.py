"""Shapes of language models: what they weigh is what is published, and what they compute is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openglm.device.decoder import Decoder, sizes
from openglm.device.language import KV_BYTES, kv_bytes_per_token
from openglm.errors import InputError

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize(
    ("name", "billions"),
    [("0.5B", 0.494), ("1B", 1.236), ("1.5B", 1.544), ("3B", 3.213), ("7B", 6.738), ("8B", 8.030)],
)
def test_usual_sizes_weigh_what_is_published(name: str, billions: float) -> None:
    assert Decoder.load(name).parameters / 1e9 == pytest.approx(billions, rel=0.002)


def test_sizes_are_sorted_and_found_in_either_case() -> None:
    weights = [each.parameters for each in sizes()]
    assert weights == sorted(weights)
    assert Decoder.load("7b") == Decoder.load("7B")


def written(folder: Path, config: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_a_configuration_against_the_model_that_it_makes(tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = CONFIG | {"tie_word_embeddings": tied}
    found = Decoder.load(str(written(tmp_path, config)))
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    norms = 64 * (2 * 3 + 1)
    assert found.parameters == sum(each.numel() for each in model.parameters()) - norms
    assert Decoder.load(str(tmp_path)) == found
    assert kv_bytes_per_token(config) == found.cache_bytes(1, 8 * KV_BYTES)


def test_a_prompt_costs_its_products_and_its_attention() -> None:
    seven = Decoder.load("7B")
    assert seven.operations(1) == pytest.approx(2 * seven.products, rel=1e-3)
    longer = seven.operations(256) - 2 * seven.operations(128)
    head, attention = 2 * seven.vocabulary * seven.hidden, 2 * 2 * 32 * 4096
    assert longer == pytest.approx(attention * (256**2 - 2 * 128**2) / 2 - head)


def test_nested_text_configuration(tmp_path: Path) -> None:
    nested = written(tmp_path, {"text_config": CONFIG})
    assert Decoder.load(str(nested)).layers == 3


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no language model '7C'.*7B"):
        Decoder.load("7C")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", json.dumps(CONFIG | {"hidden_size": 0}), json.dumps(CONFIG | {"vocab_size": "many"})],
)
def test_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        Decoder.load(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        Decoder.load(str(tmp_path / "none.json"))
