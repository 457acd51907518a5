"""What the encoder learns before its tasks: marks stand at the words, and pairs are as alike as they were."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from openglm.model.sources.zoo import ZOO

ENCODER = "all-minilm-l6-v2"
TEXTS = [
    "The cats have walked home again",
    "A dog walks slowly to the river",
    "She saw unbelievably many of them",
]


@pytest.fixture
def pretraining(tasks: ModuleType) -> ModuleType:
    pytest.importorskip("transformers")
    if not ZOO[ENCODER].available():
        pytest.skip(f"the weights of {ENCODER} are not installed: {ZOO[ENCODER].install}")
    import pretraining

    return pretraining


def test_a_mark_stands_where_its_word_begins(pretraining: ModuleType) -> None:
    rows = pretraining.Rows(pretraining.encoder_folder(ENCODER), TEXTS * 20, [])
    (batch,) = rows.batches(60, seed=1, epoch=0)
    marks = batch.inputs["marks"]
    assert marks.shape == batch.inputs["input_ids"].shape
    vocabulary = rows.tokenizer.convert_ids_to_tokens
    for place, own in enumerate(marks):
        tokens = vocabulary(batch.inputs["input_ids"][place].tolist())
        for token, mark in zip(tokens, own.tolist(), strict=True):
            if mark == pretraining.NO_WORD:
                assert token in ("[CLS]", "[SEP]", "[PAD]", "grammar", ":") or token.startswith("##")
        assert bool((own == 1).any()) == bool(batch.labels[place])
    assert 10 < batch.labels.sum() < 50, "about half are spoilt"
    (again,) = rows.batches(60, seed=1, epoch=0)
    (other,) = rows.batches(60, seed=1, epoch=1)
    assert torch.equal(again.inputs["input_ids"], batch.inputs["input_ids"])
    assert not torch.equal(other.labels, batch.labels)


def test_pairs_are_alike_as_the_encoder_says(pretraining: ModuleType, data: Path) -> None:
    gold = data / "STS-B" / "train.tsv"
    header, *lines = gold.read_text(encoding="utf-8").splitlines()
    same = [line.replace("It did", line.split("\t")[7]).replace("2.500", "5.000") for line in lines[::2]]
    far = [line.replace("2.500", "0.000") for line in lines[1::2]]
    gold.write_text("\n".join([header, *same, *far]) + "\n", encoding="utf-8")
    texts = [
        "A cat sat on the mat",
        "A kitten sat on a mat",
        "The bank raised its rates",
        "Banks raised rates",
    ]
    pairs = pretraining._paired(ENCODER, data, texts)
    assert [pair.first for pair in pairs] == texts
    assert all(pair.first != pair.second and 0 <= pair.alike <= 1 for pair in pairs)
    assert pairs == pretraining._paired(ENCODER, data, texts), "the same again"
    vectors = pretraining._embedded(pretraining.AutoModel.from_pretrained(ENCODER), texts)
    cosine = [float(vectors[texts.index(pair.first)] @ vectors[texts.index(pair.second)]) for pair in pairs]
    order = np.argsort(cosine)
    assert np.all(np.diff([pairs[place].alike for place in order]) >= 0)


def test_it_learns_and_goes_on_as_an_encoder(
    pretraining: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("EPOCHS", 1), ("BATCH", 16)):
        monkeypatch.setattr(pretraining, name, value)
    losses: list[float] = []
    file = tmp_path / "sentences.tsv"
    file.write_text("\n".join(TEXTS * 6), encoding="utf-8")
    made = pretraining.pretrained(
        ENCODER, data, file, tmp_path / "made", lambda progress: losses.append(progress.loss)
    )
    assert losses[-1] < losses[0]
    before = pretraining.AutoModel.from_pretrained(ENCODER).module.state_dict()
    after = pretraining.AutoModel.from_pretrained(str(made)).module.state_dict()
    assert before.keys() <= after.keys() | {"model.pooler.dense.weight", "model.pooler.dense.bias"}
    assert pretraining.encoder_folder(str(made)) == made
    assert not made.with_name("made.training").exists()
