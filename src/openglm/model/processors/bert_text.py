"""Cleaning text and cutting it into words as BERT does, before WordPiece cuts the words.

Specification: `BasicTokenizer` of the BERT paper (Devlin et al., 2019, arXiv:1810.04805) as the
`BertNormalizer` and `BertPreTokenizer` of Hugging Face tokenizers 0.21 to 0.23 carry it out: a model
was trained with the ids that they give. Their character tables are those of an older Unicode than
Python's, whence the exceptions below. Not followed: the decomposition of U+11938, and lower case of
letters that Unicode gained after Python's tables; vocabularies do not hold these letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any


def _characters(ranges: str) -> frozenset[str]:
    """The characters of ranges such as "41-5a 5f" (code points in hexadecimal)."""
    bounds = [tuple(int(end, 16) for end in part.split("-")) for part in ranges.split()]
    return frozenset(chr(code) for bound in bounds for code in range(bound[0], bound[-1] + 1))


# What Unicode 15.1 calls format, nonspacing mark and punctuation, and the library's tables do not.
_NEW_FORMATS = _characters("890-891 8e2 110cd 13430-1343f")
_NEW_MARKS = _characters(
    "7fd 898-89f 8ca-8e1 9fe afa-aff b55 c04 c3c d00 d3b-d3c d81 eba ece 180f 1885-1886 1abf-1ace "
    "1df6-1dfb a82c a8c5 a8ff a9bd 10d24-10d27 10eab-10eac 10efd-10eff 10f46-10f50 10f82-10f85 11070 "
    "11073-11074 110c2 111c9 111cf 1123e 11241 1133b 11438-1143f 11442-11444 11446 1145e 1182f-11837 "
    "11839-1183a 1193b-1193c 1193e 11943 119d4-119d7 119da-119db 119e0 11a01-11a0a 11a33-11a38 "
    "11a3b-11a3e 11a47 11a51-11a56 11a59-11a5b 11a8a-11a96 11a98-11a99 11c30-11c36 11c38-11c3d 11c3f "
    "11c92-11ca7 11caa-11cb0 11cb2-11cb3 11cb5-11cb6 11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 "
    "11d90-11d91 11d95 11d97 11ef3-11ef4 11f00-11f01 11f36-11f3a 11f40 11f42 13440 13447-13455 16f4f "
    "16fe4 1cf00-1cf2d 1cf30-1cf46 1e000-1e006 1e008-1e018 1e01b-1e021 1e023-1e024 1e026-1e02a 1e08f "
    "1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef 1e944-1e94a"
)
_NEW_PUNCTUATION = _characters(
    "61d 9fd a76 c77 c84 1b7d-1b7e 2e43-2e4f 2e52-2e5d 10ead 10f55-10f59 10f86-10f89 1144b-1144f "
    "1145a-1145b 1145d 11660-1166c 116b9 1183b 11944-11946 119e2 11a3f-11a46 11a9a-11a9c 11a9e-11aa2 "
    "11b00-11b09 11c41-11c45 11c70-11c71 11ef7-11ef8 11f43-11f4f 11fff 12ff1-12ff2 16e97-16e9a 16fe2 "
    "1e95e-1e95f"
)
# And what was one of them and is no longer.
_OLD_MARKS = _characters("1734")
_OLD_PUNCTUATION = _characters("166d 111c9")

WHITESPACE = _characters("9-d 20 85 a0 1680 2000-200a 2028-2029 202f 205f 3000")
"""Unicode's White_Space; `str.isspace` also takes four control characters for it."""

_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


def _is_mark(character: str) -> bool:
    nonspacing = unicodedata.category(character) == "Mn" and character not in _NEW_MARKS
    return nonspacing or character in _OLD_MARKS


def _is_punctuation(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    known = unicodedata.category(character)[0] == "P" and character not in _NEW_PUNCTUATION
    return known or character in _OLD_PUNCTUATION


def _is_dropped(character: str) -> bool:
    control = unicodedata.category(character) in ("Cc", "Cf", "Co") and character not in _NEW_FORMATS
    return control or character == "\ufffd"


def _is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CHINESE)


class _Translation(dict[int, str]):
    """A table for `str.translate` that asks `rule` once for each character it meets."""

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = self._rule(chr(code))
        return self[code]


def _without_mark(character: str) -> str:
    return "" if _is_mark(character) else character


def _apart(character: str) -> str:
    if character in WHITESPACE:
        return " "
    return f" {character} " if _is_punctuation(character) else character


_MARKS = _Translation(_without_mark)
_WORDS = _Translation(_apart)


def words(text: str) -> list[str]:
    """Normalized text cut at white space (dropped) and at punctuation (each a word of its own)."""
    return [word for word in text.translate(_WORDS).split(" ") if word]


class BertNormalizer:
    """`text -> text`: the normalizer of type BertNormalizer of a tokenizer.json.

    `settings` are its fields there: clean_text, handle_chinese_chars, strip_accents (None: as
    lowercase says), lowercase.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._clean = bool(settings.get("clean_text", True))
        self._chinese = bool(settings.get("handle_chinese_chars", True))
        self._lowercase = bool(settings.get("lowercase", True))
        strip = settings.get("strip_accents")
        self._strip = self._lowercase if strip is None else bool(strip)
        self._table = _Translation(self._cleaned)

    def _cleaned(self, character: str) -> str:
        if self._clean:
            if character not in "\t\n\r" and _is_dropped(character):
                return ""
            if character in WHITESPACE:
                return " "
        return f" {character} " if self._chinese and _is_chinese(character) else character

    def __call__(self, text: str) -> str:
        """The text as the tokenizer's words are cut from it."""
        text = text.translate(self._table)
        if self._strip and not text.isascii():
            text = unicodedata.normalize("NFD", text).translate(_MARKS)
        if self._lowercase:
            # A capital sigma becomes another letter at the end of a word; the library looks at no word.
            text = text.replace("Σ", "σ").lower()
        return text
