"""A tokenizer from the content of a tokenizer.json: ours where it is WordPiece, else the library's."""

from __future__ import annotations

import json
from typing import Any, Protocol

from openglm.errors import InputError, MissingExtraError
from openglm.model.processors import wordpiece
from openglm.model.processors.wordpiece import Encoding, WordPiece


class Tokenizer(Protocol):
    """Turns text into token ids; `tokens` are all it knows, with their ids."""

    tokens: dict[str, int]

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Ids and types of a text or a pair of texts, special tokens included."""
        ...


class LibraryTokenizer:
    """Any tokenizer.json, read by the tokenizers library."""

    def __init__(self, content: str, max_length: int | None) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise MissingExtraError(
                "The tokenizers library, which reads this model's tokenizer,", "text"
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises nothing narrower
            raise InputError(
                f"The tokenizers library cannot read the tokenizer.json: {error}.",
                "Save the tokenizer again with its library, or update tokenizers.",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length)
        self.tokens: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Ids and types of a text or a pair of texts, special tokens included."""
        encoding = self._tokenizer.encode(text, pair)
        return encoding.ids, encoding.type_ids


def parse(content: bytes) -> dict[str, Any]:
    """The object that a tokenizer.json holds; raises `InputError` where the file is broken."""
    try:
        spec = json.loads(content)
    except ValueError as error:  # not UTF-8, or not JSON
        raise InputError(
            f"The tokenizer.json is broken: {error}.", "Download or copy the model's folder again."
        ) from error
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise InputError(
            "The tokenizer.json describes no tokenizer.", "Save the tokenizer again with its library."
        )
    return spec


def make(content: bytes, max_length: int | None) -> Tokenizer:
    """The tokenizer of a tokenizer.json, cutting at `max_length` ids (None: never).

    Raises `InputError` where the file is broken, `MissingExtraError` where only the library reads it.
    """
    spec = parse(content)
    if wordpiece.reads(spec):
        return WordPiece(spec, max_length)
    return LibraryTokenizer(content.decode("utf-8"), max_length)
