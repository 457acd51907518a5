"""Decoder-only language models as their shape alone: what they weigh, keep and compute.

Counted for the Llama family (Touvron et al., 2023): attention with grouped heads, a gated block of three
products, norms and biases left out, which are under 0.1 % of the weights.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openglm.errors import InputError, nearest


class Decoder(BaseModel):
    """The shape of a decoder-only transformer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    source: str
    """The model whose configuration it is."""
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    tied: bool
    """Whether input and output share one table of embeddings."""

    @classmethod
    def load(cls, model: str) -> Self:
        """A usual size by name ("7B"), or a transformers config.json, or a folder with one.

        Raises `InputError` for a name that is none, and for a file that is no configuration of a decoder.
        """
        named = _named()
        if model.upper() in named:
            return cls(name=model.upper(), **named[model.upper()])
        path = Path(model)
        path = path / "config.json" if path.is_dir() else path
        if path.suffix != ".json":
            raise InputError(
                f"There is no language model '{model}' here.",
                nearest(model.upper(), list(named)) + " A config.json of transformers works too.",
            )
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}.", "It has to be a JSON file.") from error
        return cls.from_config(config, path)

    @classmethod
    def from_config(cls, config: Any, path: Path) -> Self:
        """From what a transformers config.json holds; raises `InputError` where a figure is missing."""
        config = config.get("text_config", config) if isinstance(config, dict) else {}
        try:
            return cls(
                name=path.resolve().parent.name,
                source=str(path),
                layers=config["num_hidden_layers"],
                hidden=config["hidden_size"],
                heads=config["num_attention_heads"],
                kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
                head_dim=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
                intermediate=config["intermediate_size"],
                vocabulary=config["vocab_size"],
                tied=config.get("tie_word_embeddings", False),
            )
        except (KeyError, TypeError, ZeroDivisionError, ValidationError) as error:
            wrong = error.errors()[0]["loc"][0] if isinstance(error, ValidationError) else error
            raise InputError(
                f"{path} does not describe a decoder-only language model: {wrong} is missing or no size.",
                "It has to be the config.json of one, as Llama, Mistral, Qwen or SmolLM have.",
            ) from error

    @property
    def products(self) -> int:
        """Weights that a token is multiplied by: all but the input's embeddings."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.products + (0 if self.tied else self.vocabulary * self.hidden)

    def cache_bytes(self, tokens: int, bits: int) -> int:
        """Keys and values of so many tokens, at `bits` an element."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bits // 8

    def operations(self, tokens: int) -> float:
        """Operations to read a prompt of so many tokens, a multiply-add counted as two. Attention looks
        back at half of the prompt on average; of the head only the last token is needed."""
        head = self.vocabulary * self.hidden
        attention = 2 * self.layers * self.heads * self.head_dim * tokens * tokens / 2
        return 2 * ((self.products - head) * tokens + head + attention)


def sizes() -> list[Decoder]:
    """The usual sizes, smallest first."""
    return [Decoder(name=name, **fields) for name, fields in _named().items()]


@cache
def _named() -> Mapping[str, Any]:
    text = (resources.files("openglm.device") / "language_models.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
