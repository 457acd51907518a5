"""Pruned tokenizers: texts of kept tokens give the same ids, renumbered; others are still cut."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.errors import InputError
from openglm.model.processors.tokenizer import make
from openglm.model.processors.vocabulary import rewrite
from openglm.model.processors.wordpiece import WordPiece, reads

tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is what ids are compared with")
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

WORDS = ["low", "lower", "lowest", "slow", "slowly", "new", "newer", "newest", "wide", "wider", "widest"]
WORDS += ["widely", "unknown", "known", "knowing", "now"]
TEXTS = [" ".join(WORDS[i:] + WORDS[:i] * 2) for i in range(len(WORDS))]
TEXTS += ["Über den Wolken, naïve!", "東京 a-b"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
KINDS = ["wordpiece", "bytes", "suffix", "prefix", "fallback", "unigram"]


@cache
def trained(kind: str) -> bytes:
    """A tokenizer.json of about 150 tokens."""
    common: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    trainer: Any
    if kind == "wordpiece":
        library = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        library.normalizer = normalizers.BertNormalizer()
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=150, **common)
    elif kind == "unigram":
        library = tokenizers.Tokenizer(models.Unigram())
        library.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **common)
    elif kind == "bytes":
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, **common)
    else:
        marks = {"suffix": {"end_of_word_suffix": "</w>"}, "prefix": {"continuing_subword_prefix": "##"}}
        if kind == "fallback":
            common["special_tokens"] = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
        mark = marks.get(kind, {})
        library = tokenizers.Tokenizer(
            models.BPE(unk_token="<unk>", byte_fallback=kind == "fallback", **mark)
        )
        library.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(vocab_size=330 if kind == "fallback" else 130, **common, **mark)
    library.train_from_iterator(TEXTS, trainer)
    if kind == "bytes":
        both = [processors.ByteLevel(), processors.RobertaProcessing(("</s>", 3), ("<s>", 2))]
        library.post_processor = processors.Sequence(both)
    elif kind == "suffix":
        library.post_processor = processors.BertProcessing(("</s>", 3), ("<s>", 2))
    else:
        library.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    library.enable_padding(pad_id=0, pad_token="<pad>")
    library.add_tokens(["newly added"])
    spec = json.loads(library.to_str())
    if kind == "fallback":  # the library has them as special tokens, which it looks for in the text
        spec["added_tokens"] = [
            item for item in spec["added_tokens"] if not item["content"].startswith("<0x")
        ]
    return json.dumps(spec).encode()


@cache
def library_of(content: bytes) -> Any:
    library = tokenizers.Tokenizer.from_str(content.decode())
    library.no_padding()
    return library


words = st.sampled_from([*WORDS, "Über", "naïve", "東京", "newly added", "a-b", "slowest", "renew"])
texts = st.lists(words, max_size=6).map(" ".join)
characters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
anything = st.lists(words | characters, max_size=5).map(" ".join)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(texts, max_size=3), texts, anything, st.sets(st.integers(0, 150), max_size=5))
@settings(max_examples=60, deadline=None)
def test_ids_of_kept_tokens_are_only_renumbered(
    kind: str, known: list[str], text: str, other: str, more: set[int]
) -> None:
    before = library_of(trained(kind))
    used = {index for item in known for index in before.encode(item).ids}
    content, old = rewrite(trained(kind), used | more)
    after = library_of(content)
    assert used <= set(old)
    assert len(set(old)) == len(old) == after.get_vocab_size()
    unknown = before.token_to_id("<unk>")
    pairs = [*((item, None) for item in known), (text, None), (text, " ".join(known)), (other, None)]
    for first, second in pairs:
        was, now = before.encode(first, second), after.encode(first, second)
        if set(was.ids) <= set(old) and not (kind == "wordpiece" and unknown in was.ids):
            assert [old[index] for index in now.ids] == was.ids
            assert now.type_ids == was.type_ids
            assert now.tokens == was.tokens
            assert now.special_tokens_mask == was.special_tokens_mask
        # What had tokens has some still, if shorter ones.
        assert now.tokens.count("<unk>") <= was.tokens.count("<unk>")
        if unknown not in was.ids:
            whole = ["".join(item.tokens).replace("##", "") for item in (was, now)]
            assert whole[0] == whole[1]


@pytest.mark.parametrize("kind", KINDS)
def test_unused_tokens_go(kind: str) -> None:
    content, old = rewrite(trained(kind), [])
    assert len(old) < library_of(trained(kind)).get_vocab_size()
    tokens = library_of(content).get_vocab()
    assert {*SPECIAL, "newly added"} <= set(tokens)
    assert "lowest" not in tokens
    assert json.loads(content)["padding"]["pad_id"] == tokens["<pad>"]
    whole, all_old = rewrite(trained(kind), range(1000))
    assert all_old == list(range(library_of(trained(kind)).get_vocab_size()))
    assert library_of(whole).get_vocab() == library_of(trained(kind)).get_vocab()


@given(texts, anything)
@settings(max_examples=100, deadline=None)
def test_our_wordpiece_reads_the_file_as_the_library_does(known: str, text: str) -> None:
    content, _ = rewrite(trained("wordpiece"), library_of(trained("wordpiece")).encode(known).ids)
    assert reads(json.loads(content))
    ours = make(content, None)
    assert isinstance(ours, WordPiece)
    for first, second in ((text, None), (known, text)):
        expected = library_of(content).encode(first, second)
        assert ours.encode(first, second) == (expected.ids, expected.type_ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multiple", [8, 16])
def test_further_tokens_fill_up_in_their_order(kind: str, multiple: int) -> None:
    library = library_of(trained(kind))
    bare = set(rewrite(trained(kind), [])[1])
    further = [index for index in reversed(range(library.get_vocab_size())) if index not in bare]
    content, old = rewrite(trained(kind), [], multiple=multiple, further=further)
    assert len(old) % multiple == 0
    assert len(old) - len(bare) < multiple
    if kind in ("wordpiece", "unigram"):  # BPE passes over those that need more than there is room for
        assert set(old) == bare | set(further[: len(old) - len(bare)])
    assert library_of(content).get_vocab_size() == len(old)


def test_bpe_keeps_what_a_token_is_built_from() -> None:
    vocabulary = {piece: index for index, piece in enumerate(["a", "b", "c", "bc", "abc", "ab", "abca"])}
    merges = [["b", "c"], ["a", "bc"], ["a", "b"], ["abc", "a"]]
    spec = {"added_tokens": [], "model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}
    content, old = rewrite(json.dumps(spec).encode(), [vocabulary["abca"]])
    assert old == [0, 1, 2, 3, 4, 6]
    model = json.loads(content)["model"]
    assert model["merges"] == [["b", "c"], ["a", "bc"], ["abc", "a"]]
    assert model["vocab"] == {"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4, "abca": 5}
    spec["model"]["merges"] = [" ".join(merge) for merge in merges]
    older, same = rewrite(json.dumps(spec).encode(), [vocabulary["abca"]])
    assert same == old
    assert json.loads(older)["model"]["merges"] == ["b c", "a bc", "abc a"]


def test_tokens_beside_the_vocabulary_come_after_it() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "b": 3, "##b": 4, "ab": 6}
    added = [{"id": index, "content": name, "special": True} for index, name in ((2, "<x>"), (5, "<y>"))]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocabulary}
    content, old = rewrite(json.dumps({"added_tokens": added, "model": model}).encode(), [])
    assert old == [0, 1, 3, 4, 2, 5]
    assert [item["id"] for item in json.loads(content)["added_tokens"]] == [4, 5]


def test_a_piece_of_characters_that_are_no_tokens_stays() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "ac": 4, "##ab": 5}
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "vocab": vocabulary,
    }
    _, old = rewrite(json.dumps({"added_tokens": [], "model": model}).encode(), [])
    assert old == [0, 1, 2, 4, 5]  # "ab" is "a", "##b"; there is no "##c", and no "##a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is broken"),
        (b'{"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": []}', "WordLevel cannot be pruned"),
        (b'{"model": {"type": "WordPiece"}, "added_tokens": []}', "cannot be read whole .*vocab"),
        (b'{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "u"}, "added_tokens": []}', "'u'"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["aa"]}, "added_tokens": []}', "whole"),
    ],
)
def test_files_that_cannot_be_rewritten(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rewrite(content, [])
