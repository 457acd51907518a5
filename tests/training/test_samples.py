"""Samples against the processor's own batches; labels against what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import openglm  # noqa: E402
from openglm.data import open_data  # noqa: E402
from openglm.data.dataset import Dataset, Sample  # noqa: E402
from openglm.errors import InputError  # noqa: E402
from openglm.model.model import Model, Trainable  # noqa: E402
from openglm.model.processors.image_processor import ImageProcessor  # noqa: E402
from openglm.training.samples import Samples  # noqa: E402

WORDS = ["the", "cat", "sat", "on", "a", "mat", "under", "big", "red", "tree", "house", "river"]
TEXTS = [" ".join(WORDS[i % 5 : i % 5 + i % 7 + 1]) for i in range(100)]


@pytest.fixture(scope="module")
def encoder(bert_folder: Path) -> Model:
    return openglm.AutoModel.from_pretrained(bert_folder)


def classifier(encoder: Model, classes: int = 3, **config: Any) -> Model:
    """The encoder's texts into classes."""

    class Net(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return torch.zeros(len(input_ids), classes)

    return replace(
        encoder, task="classification", config=config, trainable=Trainable(Net, lambda _: encoder.graph)
    )


def same(found: dict[str, Any], wanted: dict[str, np.ndarray]) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].numpy().dtype == wanted[name].dtype and np.array_equal(found[name], wanted[name])
        for name in wanted
    )


def test_batch_of_texts_is_the_processors(encoder: Model) -> None:
    samples = Samples(encoder, open_data([{"text": text} for text in TEXTS]))
    assert len(samples) == 100
    batch = samples.batch([3, 50, 7])
    assert same(batch.inputs, encoder.processor([{"text": TEXTS[i]} for i in (3, 50, 7)]))  # type: ignore[misc]
    assert batch.indices.tolist() == [3, 50, 7]
    assert batch.labels is None


def test_padding_is_that_of_the_processor(encoder: Model) -> None:
    processor = type(encoder.processor)(encoder.processor._content, encoder.processor.inputs, pad_id=9)  # type: ignore[union-attr,call-arg]
    samples = Samples(
        replace(encoder, processor=processor), open_data([{"text": "a"}, {"text": "the cat sat"}])
    )
    batch = samples.batch([0, 1])
    assert batch.inputs["input_ids"][0, 3:].tolist() == [9, 9]
    assert batch.inputs["attention_mask"][0].tolist() == [1, 1, 1, 0, 0]


def test_texts_of_a_pair_are_rows_of_their_own_for_an_encoder(encoder: Model) -> None:
    samples = Samples(encoder, open_data([{"text": "a cat", "text_pair": "the dog sat", "label": 0.5}]))
    assert len(samples) == 2
    batch = samples.batch([0, 1])
    assert same(batch.inputs, encoder.processor([{"text": "a cat"}, {"text": "the dog sat"}]))  # type: ignore[misc]
    assert batch.labels is None


def test_pair_is_one_row_for_a_classifier(encoder: Model) -> None:
    pairs = [{"text": "a cat", "text_pair": "the dog sat", "label": i} for i in range(3)]
    samples = Samples(classifier(encoder), open_data(pairs))
    assert same(samples.batch([0]).inputs, encoder.processor(pairs[:1]))  # type: ignore[misc]
    assert samples.labels is not None
    assert samples.labels.tolist() == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 120), st.integers(0, 5), st.integers(0, 3))
def test_epoch_has_every_row_at_most_once(encoder: Model, size: int, seed: int, epoch: int) -> None:
    samples = Samples(encoder, open_data([{"text": text} for text in TEXTS]))
    batches = list(samples.batches(size, seed, epoch))
    rows = Counter(int(i) for batch in batches for i in batch.indices)
    assert max(rows.values()) == 1
    assert {len(batch.indices) for batch in batches} == {min(size, 100)}
    assert len(rows) == (100 // size * size or 100)
    again = list(samples.batches(size, seed, epoch))
    assert [b.indices.tolist() for b in again] == [b.indices.tolist() for b in batches]
    rest = list(samples.batches(size, seed, epoch, len(batches) // 2))
    assert [b.indices.tolist() for b in rest] == [b.indices.tolist() for b in batches][len(batches) // 2 :]


def test_rows_of_a_batch_are_of_about_one_length_and_mixed(encoder: Model) -> None:
    samples = Samples(encoder, open_data([{"text": text} for text in TEXTS]))
    batches = list(samples.batches(10, 0, 0))
    padded = sum(batch.inputs["input_ids"].numel() for batch in batches)
    assert padded < 1.15 * samples.lengths.sum()
    lengths = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert lengths != sorted(lengths)
    assert lengths != sorted(lengths, reverse=True)
    other = list(samples.batches(10, 0, 1))
    assert {frozenset(b.indices.tolist()) for b in batches} != {frozenset(b.indices.tolist()) for b in other}


def test_in_order_has_every_row_once(encoder: Model) -> None:
    samples = Samples(encoder, open_data([{"text": text} for text in TEXTS]))
    rows = [int(i) for batch in samples.in_order(7) for i in batch.indices]
    assert sorted(rows) == list(range(100))
    assert list(samples.lengths[rows]) == sorted(samples.lengths, reverse=True)


def test_more_rows_than_a_chunk(encoder: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Samples(encoder, open_data([{"text": text} for text in TEXTS])).batch(range(100))
    monkeypatch.setattr("openglm.training.samples._CHUNK", 7)
    parts = Samples(encoder, open_data([{"text": text} for text in TEXTS])).batch(range(100))
    assert same(parts.inputs, {name: tensor.numpy() for name, tensor in whole.inputs.items()})


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(5)]


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (16, 16)},
        {"size": (16, 16), "shortest_edge": 20, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)},
        {"size": (24, 24), "resize": False, "channels": "BGR", "layout": "NHWC", "scale": 1.0},
    ],
)
def test_batch_of_pictures_is_the_processors(pictures: list[np.ndarray], settings: dict[str, Any]) -> None:
    processor = ImageProcessor(**settings)
    model = Model("net", "net", "image-classification", lambda: pytest.fail("exported"), processor)
    samples = Samples(model, open_data([{"image": picture} for picture in pictures]))
    wanted = processor([{"image": picture} for picture in pictures])
    assert same(samples.batch(range(5)).inputs, wanted)


def wrapped(forward: Callable[..., Any], example: dict[str, Any], task: str = "generic") -> Model:
    class Net(torch.nn.Module):
        pass

    Net.forward = forward  # type: ignore[method-assign]
    return openglm.AutoModel.wrap(Net(), example, task=task)


@pytest.fixture(scope="module")
def plane() -> Model:
    return wrapped(lambda self, x: x * 2.0, {"x": torch.zeros(1, 3)}, "classification")


def test_arrays_by_input_name(plane: Model) -> None:
    rows = [{"x": np.array([i, 0, 1], kind), "label": i % 3} for i, kind in enumerate([np.uint8] * 6)]
    samples = Samples(plane, open_data(rows))
    batch = samples.batch([4, 1])
    assert same(batch.inputs, {"x": np.array([[4, 0, 1], [1, 0, 1]], np.float32)})
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 1]
    lists = Samples(plane, open_data([{"x": [0.5, 1, 2]}, {"x": [1.0, 2, 3]}]))
    assert same(lists.batch([0]).inputs, {"x": np.array([[0.5, 1, 2]], np.float32)})


@pytest.mark.parametrize(
    "rows",
    [[{"y": [1.0, 2, 3]}], [{"x": [1.0, 2]}], [{"x": [[1.0, 2, 3]]}], [{"x": [1.0, 2, 3], "z": [1.0]}]],
)
def test_arrays_that_do_not_fit(plane: Model, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError):
        Samples(plane, open_data(rows))


def test_without_a_mask_rows_of_a_batch_have_one_length() -> None:
    tokens = torch.export.Dim("tokens", min=2, max=64)

    class Sum(torch.nn.Module):
        def forward(self, ids: Any) -> Any:
            return ids.float().sum(1, keepdim=True)

    model = openglm.AutoModel.wrap(
        Sum(),
        {"ids": torch.ones(2, 5, dtype=torch.int64)},
        dynamic_shapes={"ids": {0: torch.export.Dim("batch"), 1: tokens}},
    )
    rows = [{"ids": np.arange(2 + i % 3)} for i in range(30)]
    samples = Samples(model, open_data(rows))
    for found in (samples.batches(6, 0, 0), samples.in_order(6)):
        seen = []
        for batch in found:
            for row, index in zip(batch.inputs["ids"], batch.indices, strict=True):
                assert row.tolist() == rows[index]["ids"].tolist()
            seen += batch.indices.tolist()
        assert sorted(seen) == list(range(30))


def test_samples_of_other_shapes_and_inputs() -> None:
    image = wrapped(lambda self, x: x.mean((1, 2, 3))[:, None], {"x": torch.zeros(1, 1, 4, 4)})
    with pytest.raises(InputError, match="the model takes"):
        Samples(image, open_data([{"x": np.zeros((1, 4, 4))}, {"x": np.zeros((1, 4, 5))}]))


@pytest.mark.parametrize(
    ("labels", "config", "classes", "wanted"),
    [
        ([0, 1, 2, 1], {}, None, [0, 1, 2, 1]),
        ([0.0, 2.0], {}, None, [0, 2]),
        (["no", "yes", "maybe", "no"], {}, None, [1, 2, 0, 1]),
        (["no", "yes"], {"id2label": {"0": "yes", "1": "no", "2": "maybe"}}, None, [1, 0]),
        # A folder's numbers follow its names, the model's its own order.
        ([0, 1, 2], {"id2label": {0: "c", 1: "a", 2: "b"}}, ("a", "b", "c"), [1, 2, 0]),
        ([0, 1], {"id2label": {0: "LABEL_0", 1: "LABEL_1"}}, ("a", "b"), [0, 1]),
        (["b", "a"], {}, ("a", "b", "c"), [1, 0]),
    ],
)
def test_labels(encoder: Model, labels: list[Any], config: Any, classes: Any, wanted: list[int]) -> None:
    rows = [Sample({"text": "a"}, label) for label in labels]
    dataset = Dataset("rows", lambda: iter(rows), labelled=True, classes=classes)
    found = Samples(classifier(encoder, **config), dataset).labels
    assert found is not None
    assert found.dtype == torch.int64
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 3], "The label 3 is none of the model's 3 classes. Labels go from 0 to 2"),
        ([0, -1], "The label -1 "),
        ([0, 1.5], "The label 1.5 "),
        ([0, None], "have no label"),
        (["a", "b", "c", "d"], "The label 3 "),
        ([1, 1, 1], "Every label of rows is 1.*alpha=1"),
    ],
)
def test_labels_that_cannot_be_used(encoder: Model, labels: list[Any], said: str) -> None:
    rows = [Sample({"text": "a"}, label) for label in labels]
    dataset = Dataset("rows", lambda: iter(rows), labelled=True)
    with pytest.raises(InputError, match=said):
        Samples(classifier(encoder), dataset)
    assert Samples(classifier(encoder), dataset, labels=False).labels is None


def test_labels_of_a_model_with_one_output_are_values(encoder: Model) -> None:
    found = Samples(
        classifier(encoder, 1), open_data([{"text": "a", "label": 2.5}, {"text": "a", "label": 1}])
    )
    assert found.labels is not None
    assert found.labels.dtype == torch.float32
    assert found.labels.tolist() == [2.5, 1]
    with pytest.raises(InputError, match="'bad' is no number"):
        Samples(classifier(encoder, 1), open_data([{"text": "a", "label": "bad"}]))


def test_empty_data_and_a_limit(encoder: Model) -> None:
    with pytest.raises(InputError, match="no sample"):
        Samples(encoder, Dataset("nothing", lambda: iter(()), labelled=False))
    limited = Samples(encoder, open_data([{"text": text} for text in TEXTS]), limit=10)
    assert len(limited) == 10


def test_digest_is_of_rows_and_labels(encoder: Model) -> None:
    def digest(*rows: tuple[str, int]) -> str:
        given = [{"text": text, "label": label} for text, label in rows]
        return Samples(classifier(encoder), open_data(given)).digest()

    base = digest(("a cat", 0), ("the dog", 1))
    assert base == digest(("a cat", 0), ("the dog", 1))
    others = {
        digest(("a cat", 1), ("the dog", 0)), digest(("a cat", 0), ("the cat", 1)),
        digest(("a cat the", 0), ("dog", 1)),
    }  # fmt: skip
    assert base not in others
    assert len(others) == 3


def test_arrays_laid_out_otherwise_are_the_same_rows() -> None:
    square = wrapped(lambda self, x: x * 2.0, {"x": torch.zeros(1, 2, 3, 3)})
    pictures = np.arange(4 * 18, dtype=np.float32).reshape(4, 2, 3, 3)
    last = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not last[0].flags.c_contiguous
    plain, turned = (Samples(square, open_data([{"x": one} for one in each])) for each in (pictures, last))
    assert turned.digest() == plain.digest()
    assert same(turned.batch([2, 0]).inputs, {"x": pictures[[2, 0]]})
