"""Vocabulary pruning: fewer rows, and the same outputs for texts of the tokens that stay."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data.dataset import Dataset, Sample
from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.processors.text_processor import TextProcessor
from openglm.model.sources import transformers_folder
from openglm.model.sources.module import wrap
from openglm.passes.contract import Adapted, Context
from openglm.passes.vocabulary import VocabularyPruning

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

TEXTS = ["The cat sat on.", "the dog ran, the cat ran", "a big cat", "big big dog"]
WORDS = ["the", "cat", "sat", "on", ".", "dog", "ran", ",", "a", "big"]


def dataset(texts: list[str]) -> Dataset:
    return Dataset("texts", lambda: (Sample({"text": text}) for text in texts), labelled=False)


@pytest.fixture(scope="module")
def model(bert_folder: Path) -> Model:
    return transformers_folder.load(str(bert_folder))


@pytest.fixture(scope="module")
def pruned(model: Model) -> Adapted:
    return VocabularyPruning().apply(model, Context(training=dataset(TEXTS)))


def table(model: Model) -> Any:
    return model.module.model.get_input_embeddings()


def outputs(model: Model, texts: list[str]) -> Any:
    arrays = model.processor([{"text": text} for text in texts])
    with torch.no_grad():
        return model.module(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def names(model: Model) -> dict[str, int]:
    return model.processor._tokenizer.tokens


def test_the_rows_of_unused_tokens_go(model: Model, pruned: Adapted) -> None:
    before, after = names(model), names(pruned.model)
    assert pruned.changed
    assert set(WORDS) <= set(after) < set(before)
    assert {token for token in before if len(token.removeprefix("##")) == 1} <= set(after)
    # 4 special tokens, 26 letters twice, 2 marks and 7 words; the first of the others fill up.
    assert len(after) == 72
    assert [token for token in before if token not in after] == ["house", "river", "moved", "slept", "ate"]
    assert table(pruned.model).num_embeddings == len(table(pruned.model).weight) == 72
    rows = [before[token] for token in sorted(after, key=lambda token: after[token])]
    assert torch.equal(table(pruned.model).weight, table(model).weight[rows])
    assert pruned.notes[0].startswith(f"72 of {len(before)} tokens stay, of which the data have 12; ")


def test_configurations_follow(model: Model, pruned: Adapted) -> None:
    assert pruned.model.module.model.config.vocab_size == pruned.model.config["vocab_size"] == 72
    assert table(pruned.model).padding_idx == names(pruned.model)["[PAD]"] == pruned.model.processor.pad_id
    for key in ("inputs", "max_length", "pad_to"):
        assert pruned.model.processor.settings()[key] == model.processor.settings()[key]


def test_the_model_given_stays(model: Model, pruned: Adapted, bert_folder: Path) -> None:
    fresh = transformers_folder.load(str(bert_folder))
    assert names(model) == names(fresh)
    assert model.config == fresh.config
    assert model.module.model.config.to_dict() == fresh.module.model.config.to_dict()
    for ours, theirs in zip(model.module.parameters(), fresh.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_texts_of_kept_tokens_give_the_same(model: Model, pruned: Adapted, texts: list[str]) -> None:
    assert torch.equal(outputs(pruned.model, texts), outputs(model, texts))


@given(st.text(st.sampled_from("abcdehortu .,!é\n"), max_size=30))
@settings(max_examples=25, deadline=None)
def test_other_texts_run_and_lose_no_letter(model: Model, pruned: Adapted, text: str) -> None:
    assert torch.isfinite(outputs(pruned.model, [text])).all()
    unknown = [
        item.processor([{"text": text}])["input_ids"][0].tolist().count(names(item)["[UNK]"])
        for item in (model, pruned.model)
    ]
    assert unknown[0] == unknown[1]


def test_the_graph_takes_the_new_ids(model: Model, pruned: Adapted, tmp_path: Path) -> None:
    pruned.model.processor.save(tmp_path)
    processor = TextProcessor.from_settings(pruned.model.processor.settings(), tmp_path)
    graph = pruned.model.graph
    shapes = [value.shape.numpy() for value in graph.graph.initializers.values()]
    assert (72, 64) in shapes
    assert (len(names(model)), 64) not in shapes
    content = ir.to_proto(graph).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, processor([{"text": text} for text in TEXTS]))[0]
    np.testing.assert_allclose(found, outputs(model, TEXTS).numpy(), atol=1e-5)


def test_rarer_tokens_go_too(model: Model) -> None:
    result = VocabularyPruning(minimum=3).apply(model, Context(training=dataset(TEXTS)))
    # the 3, cat 3, big 3, [CLS] 4, [SEP] 4; of the others the most frequent fill up.
    assert "of which the data have 5;" in result.notes[0]
    assert {"dog", "ran", "sat"} <= set(names(result.model))
    assert "on" not in names(result.model)


def test_calibration_batches_do_where_there_is_no_training_data(model: Model, pruned: Adapted) -> None:
    seen: list[int] = []
    batches = [model.processor([{"text": text}]) for text in TEXTS]
    result = VocabularyPruning().apply(model, Context(calibration=lambda: batches, progress=seen.append))
    assert seen == [1, 2, 3, 4]
    assert names(result.model) == names(pruned.model)


def test_a_used_vocabulary_stays_whole(model: Model) -> None:
    result = VocabularyPruning().apply(model, Context(training=dataset(list(names(model)))))
    assert not result.changed
    assert result.model is model


class Tagger(nn.Module):
    """A model of tokens whose head may be about them, or which may look at their numbers."""

    def __init__(self, rows: int, kind: str) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, 8)
        self.head = nn.Linear(8, 5 if kind == "positions" else rows, bias=False)
        if kind == "tied":
            self.head.weight = self.table.weight
        self.kind = kind

    def forward(self, input_ids: Any) -> Any:
        if self.kind == "none":
            return nn.functional.one_hot(input_ids, 90).float()
        found = self.head(self.table(input_ids))
        if self.kind == "positions":
            return found * input_ids[..., None]
        return found.mean(-1) if self.kind == "tied" else found


@cache
def tokenizer_file() -> bytes:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters), *WORDS, "z" * 9]
    pieces += [f"other{index}" for index in range(30)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    spec = {
        "added_tokens": [],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocabulary},
    }
    return json.dumps(spec).encode()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tied", "about the tokens of its vocabulary"),
        ("untied", "about the tokens of its vocabulary"),
        ("positions", "hang on the numbers of its tokens"),
        ("none", "No embedding"),
    ],
)
def test_what_needs_its_vocabulary_is_refused(kind: str, message: str) -> None:
    rows = len(json.loads(tokenizer_file())["model"]["vocab"])
    example = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
    processor = TextProcessor(tokenizer_file(), ["input_ids"])
    model = wrap(Tagger(rows, kind), example, processor=processor)
    with pytest.raises(InputError, match=message):
        VocabularyPruning().apply(model, Context(training=dataset(["zzzzzzzzz the cat"])))


def test_what_has_no_tokenizer_or_no_texts_is_refused(model: Model) -> None:
    bare = copy.copy(model)
    bare.processor = None
    with pytest.raises(InputError, match="has no tokenizer"):
        VocabularyPruning().apply(bare, Context(training=dataset(TEXTS)))
    for context in (Context(), Context(training=dataset([])), Context(calibration=lambda: [])):
        with pytest.raises(InputError, match="needs texts"):
            VocabularyPruning().apply(model, context)


def test_the_code_tells_configs_apart() -> None:
    assert VocabularyPruning().code == "vocabulary_pruning"
    assert VocabularyPruning(minimum=2).code == "vocabulary_pruning_2"
