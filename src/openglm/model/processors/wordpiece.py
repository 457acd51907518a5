"""BERT's WordPiece tokenizer in plain Python: running a text model needs no other package.

Reads the `tokenizer.json` of Hugging Face tokenizers and gives the ids that that library gives.
The pieces: Schuster and Nakajima, "Japanese and Korean voice search", 2012; the greedy search for
the longest piece: Devlin et al., 2019, arXiv:1810.04805.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openglm.errors import InputError
from openglm.model.processors.bert_text import WHITESPACE, BertNormalizer, words

Encoding = tuple[list[int], list[int]]
"""Token ids, and for each the sequence it belongs to (0 or 1)."""

# Words kept with their ids; a text repeats few words often.
_CACHE_SIZE = 100_000


def reads(spec: Mapping[str, Any]) -> bool:
    """Whether this file's tokenizer is the one that a tokenizer.json describes."""
    part = {
        name: (spec.get(name) or {}).get("type")
        for name in ("model", "normalizer", "pre_tokenizer", "post_processor")
    }
    return (
        part["model"] == "WordPiece"
        and part["normalizer"] in (None, "BertNormalizer")
        and part["pre_tokenizer"] == "BertPreTokenizer"
        and part["post_processor"] in (None, "TemplateProcessing", "BertProcessing")
    )


class WordPiece:
    """The tokenizer that a tokenizer.json describes; raises `InputError` where a part is missing there.

    `max_length` limits the ids of a text or a pair, special tokens included. The truncation and
    padding settings of the file are not used.
    """

    def __init__(self, spec: Mapping[str, Any], max_length: int | None = None) -> None:
        try:
            model = spec["model"]
            self._vocabulary: dict[str, int] = model["vocab"]
            self._unknown = self._vocabulary[model["unk_token"]]
            self._prefix: str = model.get("continuing_subword_prefix", "##")
            self._longest_word: int = model.get("max_input_chars_per_word", 100)
            normalizer = spec.get("normalizer")
            self._normalize = BertNormalizer(normalizer) if normalizer else str
            self._single, self._pair = _templates(spec.get("post_processor"))
            added = _Added.read(spec.get("added_tokens") or (), self._vocabulary)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"The tokenizer.json lacks a part of WordPiece ({type(error).__name__}: {error}).",
                "Save the tokenizer again with its library.",
            ) from error
        self._raw_tokens = _Splitter([token for token in added if not token.normalized], str)
        self._normalized_tokens = _Splitter([token for token in added if token.normalized], self._normalize)
        self.tokens: dict[str, int] = self._vocabulary | {token.content: token.id for token in added}
        """Every token, added ones included, with its id."""
        self._longest_piece = max(map(len, self._vocabulary))
        self._cache: dict[str, list[int]] = {}
        self._max_length = max_length

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Ids and types of a text or a pair of texts, special tokens included."""
        first = self._ids(text)
        second = None if pair is None else self._ids(pair)
        template = self._single if second is None else self._pair
        if self._max_length is not None:
            room = self._max_length - sum(len(ids) for ids, _ in template if not isinstance(ids, str))
            if room < 0:
                raise InputError(
                    f"A maximal length of {self._max_length} leaves no room for the special tokens.",
                    "Give a greater max_length.",
                )
            first, second = _truncate(first, second, room)
        sequences = {"A": first, "B": second or []}
        ids: list[int] = []
        types: list[int] = []
        for piece, kind in template:
            piece_ids = sequences[piece] if isinstance(piece, str) else piece
            ids += piece_ids
            types += [kind] * len(piece_ids)
        return ids, types

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for raw, raw_id in self._raw_tokens.split(text):
            if raw_id is not None:
                ids.append(raw_id)
                continue
            for part, part_id in self._normalized_tokens.split(self._normalize(raw)):
                if part_id is not None:
                    ids.append(part_id)
                    continue
                for word in words(part):
                    ids += self._word(word)
        return ids

    def _word(self, word: str) -> list[int]:
        ids = self._cache.get(word)
        if ids is None:
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            ids = self._cache[word] = self._pieces(word)
        return ids

    def _pieces(self, word: str) -> list[int]:
        if len(word) > self._longest_word:
            return [self._unknown]
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            longest = min(len(word), start + self._longest_piece)
            for end in range(longest, start, -1):
                piece = self._vocabulary.get(prefix + word[start:end])
                if piece is not None:
                    ids.append(piece)
                    start = end
                    break
            else:
                return [self._unknown]
        return ids


Template = list[tuple[list[int] | str, int]]
"""What an encoding is put together from: ids of special tokens or "A" or "B", and their type."""


def _templates(processor: Mapping[str, Any] | None) -> tuple[Template, Template]:
    """How a text and how a pair is put together."""
    if processor is None:
        return [("A", 0)], [("A", 0), ("B", 1)]
    if processor["type"] == "BertProcessing":
        start, end = [processor["cls"][1]], [processor["sep"][1]]
        single: Template = [(start, 0), ("A", 0), (end, 0)]
        return single, [*single, ("B", 1), (end, 1)]
    special = {name: token["ids"] for name, token in processor["special_tokens"].items()}

    def read(pieces: Sequence[Mapping[str, Any]]) -> Template:
        template: Template = []
        for piece in pieces:
            ((kind, value),) = piece.items()
            name = value["id"]
            template.append((name if kind == "Sequence" else special[name], value["type_id"]))
        return template

    return read(processor["single"]), read(processor["pair"])


def _truncate(first: list[int], second: list[int] | None, room: int) -> tuple[list[int], list[int] | None]:
    """Cut the longest first, from the right, until both fit into `room` together."""
    if second is None:
        return first[:room], None
    if len(first) + len(second) <= room:
        return first, second
    short = min(len(first), len(second))
    long = max(short, room - short)
    if short + long > room:
        # Both must be cut: half each, and the one that was longer gets the odd place.
        short, long = room // 2, room - room // 2
    if len(first) > len(second):
        return first[:long], second[:short]
    return first[:short], second[:long]


class _Added:
    """A token that is found in the text before words are cut, such as "[MASK]"."""

    def __init__(self, entry: Mapping[str, Any], token_id: int) -> None:
        self.content: str = entry["content"]
        self.id = token_id
        self.normalized = bool(entry.get("normalized", not entry.get("special", False)))
        self.single_word = bool(entry.get("single_word", False))
        self.left = bool(entry.get("lstrip", False))
        self.right = bool(entry.get("rstrip", False))

    @classmethod
    def read(cls, entries: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> list[_Added]:
        """The added tokens; one that the vocabulary holds has its id from there."""
        tokens = [cls(entry, vocabulary.get(entry["content"], entry["id"])) for entry in entries]
        return [token for token in tokens if token.content]


def _in_word(character: str) -> bool:
    category = unicodedata.category(character)
    return character.isalnum() or category[0] == "M" or category == "Pc" or character in "\u200c\u200d"


class _Splitter:
    """Cuts text at added tokens, the leftmost first, and among those the longest."""

    def __init__(self, tokens: Sequence[_Added], normalize: Any) -> None:
        self._tokens = {normalize(token.content): token for token in tokens}
        longest_first = sorted(filter(None, self._tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Parts of the text in order; with its id where the part is an added token."""
        done = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[match.group()]
            start, end = match.span()
            if token.single_word and (
                (start > 0 and _in_word(text[start - 1])) or (end < len(text) and _in_word(text[end]))
            ):
                continue
            while token.left and start > done and text[start - 1] in WHITESPACE:
                start -= 1
            while token.right and end < len(text) and text[end] in WHITESPACE:
                end += 1
            if done < start:
                yield text[done:start], None
            yield match.group(), token.id
            done = end
        if done < len(text):
            yield text[done:], None
