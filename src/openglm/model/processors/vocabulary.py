"""Fewer tokens in a tokenizer.json, for a model whose embedding loses the other rows.

Reads the `tokenizer.json` of Hugging Face tokenizers with a model of type WordPiece, BPE or Unigram.
What is cut into kept tokens with the whole vocabulary is cut into the same with the kept part of it:

- WordPiece takes the longest piece that fits, and the longest in a part of the vocabulary is the
  longest in the whole where that is kept (words without pieces, "[UNK]", aside: they may gain some).
- BPE takes the merge of the lowest rank. The merges that build a token are the same within a word
  as on its own, so that with their results kept each is again the lowest.
- Unigram takes the best path, which is the best of fewer paths too. What an unknown character costs
  hangs on the least score, whose piece is kept for that.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from openglm.errors import InputError
from openglm.model.processors import tokenizer

_FROM_IDS = {"BertProcessing", "RobertaProcessing"}
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}


def rewrite(
    content: bytes, kept: Iterable[int], *, multiple: int = 1, further: Iterable[int] = ()
) -> tuple[bytes, list[int]]:
    """The tokenizer.json with the kept tokens and those that it cannot do without; each new id's old id.

    These are the special and added tokens, single characters and bytes, pieces whose characters are
    no tokens themselves, and what BPE builds a kept token from. Ids of `further` tokens, in this
    order, fill the number of tokens up to a multiple of `multiple`. The others keep their order.
    Raises `InputError` for other tokenizers, or where the file is broken.
    """
    spec = tokenizer.parse(content)
    try:
        vocabulary = _Vocabulary(spec)
        chosen = set(vocabulary.base)
        for token in kept:
            chosen |= vocabulary.needed(token)
        for token in further:
            room = -len(chosen) % multiple
            if not room:
                break
            needed = vocabulary.needed(token) - chosen
            if len(needed) <= room:
                chosen |= needed
        old = vocabulary.order(chosen)
        changed = vocabulary.rewritten({token: index for index, token in enumerate(old)})
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(
            f"The tokenizer.json cannot be read whole ({type(error).__name__}: {error}).",
            "Save the tokenizer again with its library.",
        ) from error
    return json.dumps(changed, ensure_ascii=False).encode(), old


class _Vocabulary:
    """The tokens of a tokenizer.json: what each of them needs, and the file without some."""

    def __init__(self, spec: dict[str, Any]) -> None:
        model = spec["model"]
        # Files written before models had types: only BPE has merges.
        self._type = model.get("type") or ("BPE" if "merges" in model else None)
        if self._type not in ("WordPiece", "BPE", "Unigram"):
            raise InputError(
                f"A tokenizer of type {self._type} cannot be pruned.", "WordPiece, BPE and Unigram can."
            )
        self._spec = spec
        entries = model["vocab"]
        pieces: dict[str, int] = (
            {piece: index for index, (piece, _) in enumerate(entries)}
            if self._type == "Unigram"
            else dict(entries)
        )
        added = spec["added_tokens"]
        self._added = {item["content"]: pieces.get(item["content"], item["id"]) for item in added}
        self._pieces = pieces
        self._names = {index: piece for piece, index in pieces.items()}
        default = "##" if self._type == "WordPiece" else ""
        self._prefix: str = model.get("continuing_subword_prefix", default) or ""
        self._suffix: str = model.get("end_of_word_suffix") or ""
        self._ranks = {pair: rank for rank, pair in enumerate(map(_pair, model.get("merges") or ()))}
        self.base = {*self._added.values(), *self._referred(), *self._unsplittable()}
        """Ids that always stay."""

    def _referred(self) -> Iterator[int]:
        """Ids that the file names outside of its vocabulary."""
        model, padding = self._spec["model"], self._spec.get("padding")
        if self._type == "Unigram":
            if model.get("unk_id") is not None:
                yield model["unk_id"]
            yield min(range(len(model["vocab"])), key=lambda index: model["vocab"][index][1])
        elif model.get("unk_token") is not None:
            yield self._pieces[model["unk_token"]]
        if padding:
            yield padding["pad_id"]
        for part in _parts(self._spec.get("post_processor")):
            if part["type"] == "TemplateProcessing":
                for token in part["special_tokens"].values():
                    yield from token["ids"]
            elif part["type"] in _FROM_IDS:
                yield part["sep"][1]
                yield part["cls"][1]

    def _unsplittable(self) -> Iterator[int]:
        """Single characters and bytes, and pieces with a character that is no token in its place."""
        for piece, index in self._pieces.items():
            symbols = self._symbols(piece)
            if len(symbols) < 2 or piece in _BYTES or any(symbol not in self._pieces for symbol in symbols):
                yield index

    def _symbols(self, piece: str) -> list[str]:
        """A piece's characters, each with the mark of its place in a word."""
        starts = self._prefix if self._prefix and piece.startswith(self._prefix) else ""
        ends = self._suffix if self._suffix and piece.endswith(self._suffix) else ""
        body = piece[len(starts) : len(piece) - len(ends)]
        symbols = [(self._prefix if index else starts) + character for index, character in enumerate(body)]
        if symbols:
            symbols[-1] += ends
        return symbols

    def needed(self, token: int) -> set[int]:
        """The token, and all that BPE's merges make on the way to it; nothing for an id of no token."""
        piece = self._names.get(token)
        if piece is None:
            return set()
        found = {token}
        symbols = self._symbols(piece) if self._ranks else []
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            rank, place = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairs))
            if rank == len(self._ranks):
                break
            symbols[place : place + 2] = [self._merged(pairs[place])]
            found.add(self._pieces[symbols[place]])
        return found

    def _merged(self, pair: tuple[str, str]) -> str:
        return pair[0] + pair[1].removeprefix(self._prefix)

    def order(self, chosen: set[int]) -> list[int]:
        """Old ids by new id: the model's pieces, then tokens added beside them, as the library counts."""
        return sorted(chosen, key=lambda index: (index not in self._names, index))

    def rewritten(self, new: Mapping[int, int]) -> dict[str, Any]:
        """The file with the tokens of which `new` gives the new ids."""
        spec = copy.deepcopy(self._spec)
        model = spec["model"]
        kept = {piece: new[index] for piece, index in self._pieces.items() if index in new}
        if self._type == "Unigram":
            entries = model["vocab"]
            model["vocab"] = [entries[old] for old in sorted(self._names) if old in new]
            if model.get("unk_id") is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            model["vocab"] = dict(sorted(kept.items(), key=lambda item: item[1]))
        if "merges" in model:
            model["merges"] = [
                merge
                for merge, pair in zip(model["merges"], map(_pair, model["merges"]), strict=True)
                if all(part in kept for part in (*pair, self._merged(pair)))
            ]
        for item in spec["added_tokens"]:
            item["id"] = new[self._added[item["content"]]]
        spec["added_tokens"].sort(key=lambda item: item["id"])
        if spec.get("padding"):
            spec["padding"]["pad_id"] = new[spec["padding"]["pad_id"]]
        for part in _parts(spec.get("post_processor")):
            if part["type"] == "TemplateProcessing":
                for token in part["special_tokens"].values():
                    token["ids"] = [new[index] for index in token["ids"]]
            elif part["type"] in _FROM_IDS:
                for name in ("sep", "cls"):
                    part[name] = [part[name][0], new[part[name][1]]]
        return spec


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Both sides of a merge, which older files write in one string."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _parts(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The post-processors of a sequence, or the one there is."""
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [part for item in processor["processors"] for part in _parts(item)]
    return [processor]
