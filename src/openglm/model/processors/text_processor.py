"""From texts to the arrays of a text model: token ids, attention mask, token types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openglm.errors import InputError
from openglm.model.processors import tokenizer

FILE = "tokenizer.json"

_NAMES = ("input_ids", "attention_mask", "token_type_ids")

# transformers writes 1e30 into tokenizer_config.json where a tokenizer states no limit.
_NO_LIMIT = 1_000_000


class TextProcessor:
    """Makes int64 arrays of shape (batch, tokens) from samples {"text": a} or {"text": a, "text_pair": b}.

    `inputs` are the model's input names; those of input_ids, attention_mask and token_type_ids among
    them are made. Texts are cut to `max_length` tokens, and padded on the right to the longest of the
    batch, or to `pad_to` for a model with a fixed length.
    """

    kind = "text"

    def __init__(
        self,
        content: bytes,
        inputs: Sequence[str],
        max_length: int | None = None,
        pad_id: int = 0,
        pad_to: int | None = None,
    ) -> None:
        self.inputs = tuple(name for name in inputs if name in _NAMES)
        if "input_ids" not in self.inputs:
            raise InputError(
                f"The model takes {', '.join(inputs) or 'nothing'}, and a text gives {', '.join(_NAMES)}.",
                "Rename its inputs, or feed it arrays.",
            )
        for name, limit in (("max_length", max_length), ("pad_to", pad_to)):
            if limit is not None and limit < 1:
                raise InputError(f"{name} is {limit}.", "Give a positive number of tokens.")
        if pad_to is not None:
            max_length = pad_to if max_length is None else min(max_length, pad_to)
        self.max_length = max_length
        self.pad_id = pad_id
        self.pad_to = pad_to
        self._content = content
        self._tokenizer = tokenizer.make(content, max_length)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        inputs: tuple[str, ...],
        max_length: int | None = None,
        pad_to: int | None = None,
    ) -> TextProcessor:
        """From a model's folder: tokenizer.json, and what stands beside it.

        `max_length` is the most that the model takes. Where the folder states less, in
        sentence_bert_config.json or else in tokenizer_config.json, that holds: a sentence encoder
        was trained on texts of that length. Raises `InputError` where the tokenizer is missing or broken.
        """
        content = _read(folder)
        config = _json(folder / "tokenizer_config.json")
        stated = _json(folder / "sentence_bert_config.json").get("max_seq_length")
        if stated is None:
            stated = config.get("model_max_length")
        if isinstance(stated, int | float) and stated < (max_length or _NO_LIMIT):
            max_length = int(stated)
        processor = cls(content, inputs, max_length, pad_to=pad_to)
        processor.pad_id = processor._pad_id(config)
        return processor

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: Path) -> TextProcessor:
        """From what `settings` gave and `save` wrote into `folder`."""
        try:
            fields = {name: settings[name] for name in ("inputs", "max_length", "pad_id", "pad_to")}
        except KeyError as error:
            raise InputError(
                f"The text processor's settings lack {error}.", "Save the bundle again."
            ) from error
        return cls(_read(folder), **fields)

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays by input name for a batch of samples; raises `InputError` on what is no text."""
        if not batch:
            raise InputError("There is no text.", 'Give at least one sample such as {"text": "..."}.')
        encodings = [
            self._tokenizer.encode(_text(sample, "text"), _text(sample, "text_pair"))
            if sample.get("text_pair") is not None
            else self._tokenizer.encode(_text(sample, "text"))
            for sample in batch
        ]
        length = self.pad_to or max(len(ids) for ids, _ in encodings)
        arrays = {name: np.zeros((len(batch), length), np.int64) for name in _NAMES}
        arrays["input_ids"].fill(self.pad_id)
        for row, (ids, types) in enumerate(encodings):
            arrays["input_ids"][row, : len(ids)] = ids
            arrays["attention_mask"][row, : len(ids)] = 1
            arrays["token_type_ids"][row, : len(ids)] = types
        return {name: arrays[name] for name in self.inputs}

    def settings(self) -> dict[str, Any]:
        """Plain settings for the manifest."""
        return {
            "kind": self.kind,
            "inputs": list(self.inputs),
            "max_length": self.max_length,
            "pad_id": self.pad_id,
            "pad_to": self.pad_to,
        }

    def save(self, folder: Path) -> list[str]:
        """Write the tokenizer file as it was read."""
        (folder / FILE).write_bytes(self._content)
        return [FILE]

    def _pad_id(self, config: Mapping[str, Any]) -> int:
        """The id that fills up: tokenizer.json's padding, else the pad token's, else 0 (masked anyway)."""
        padding = tokenizer.parse(self._content).get("padding")
        if isinstance(padding, dict) and isinstance(padding.get("pad_id"), int):
            return int(padding["pad_id"])
        token = config.get("pad_token")
        name = token.get("content") if isinstance(token, dict) else token
        return self._tokenizer.tokens.get(str(name), 0)


def _text(sample: Mapping[str, Any], key: str) -> str:
    text = sample.get(key)
    if not isinstance(text, str):
        found = "is missing" if text is None else f"is of type {type(text).__name__}"
        raise InputError(f"A sample's '{key}' {found}.", f'Give a string, such as {{"{key}": "..."}}.')
    # A lone surrogate is no character and has no UTF-8; what decoders put for one is U+FFFD.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read(folder: Path) -> bytes:
    try:
        return (folder / FILE).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} holds no readable {FILE}.",
            "Save the tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(...).",
        ) from error


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(
            f"{path} is broken: {error}.", "Download or copy the model's folder again."
        ) from error
    return content if isinstance(content, dict) else {}
