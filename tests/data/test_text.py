"""Inputs without a user's data: text that every Python carries, and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from openglm.data import calibration_text, noise
from openglm.errors import InputError


@dataclass
class Spec:
    name: str
    dtype: str
    shape: tuple[int | str, ...]


def test_calibration_text_is_varied_and_always_the_same() -> None:
    dataset = calibration_text()
    texts = [sample.inputs["text"] for sample in dataset]
    assert texts == [sample.inputs["text"] for sample in dataset]
    assert len(texts) >= 300
    assert len(set(texts)) == len(texts)
    assert not dataset.labelled
    lengths = [len(text.split()) for text in texts]
    assert (min(lengths) >= 4, max(lengths) <= 120) == (True, True)
    for part in (lengths[:64], lengths[-64:]):
        assert (min(part) < 12, max(part) > 40) == (True, True)
    assert all("\n" not in text and text == text.strip() for text in texts)


def test_a_paragraph_and_its_sentences_do_not_both_appear() -> None:
    texts = [sample.inputs["text"] for sample in calibration_text()]
    long = [text for text in texts if len(text) > 60]
    parts = [text for text in long if any(text in other for other in long if other != text)]
    assert len(parts) < len(long) / 100  # the manual itself repeats a sentence or two


def test_noise_follows_the_specs() -> None:
    specs = [
        Spec("x", "float32", ("batch", 3, "height")),
        Spec("ids", "int64", (1, "tokens")),
        Spec("attention_mask", "int64", (1, "tokens")),
        Spec("half", "float16", (1, 400)),
        Spec("flag", "bool", (1, 50)),
    ]
    samples = list(noise(specs, 3, seed=1, sizes={"height": 5}))
    assert len(samples) == 3
    inputs = samples[0].inputs
    assert {name: (str(array.dtype), array.shape) for name, array in inputs.items()} == {
        "x": ("float32", (3, 5)),
        "ids": ("int64", (16,)),
        "attention_mask": ("int64", (16,)),
        "half": ("float16", (400,)),
        "flag": ("bool", (50,)),
    }
    assert set(inputs["ids"].tolist()) <= set(range(10))
    assert inputs["attention_mask"].all()
    assert set(inputs["flag"].tolist()) == {True, False}
    assert abs(float(inputs["half"].std()) - 1) < 0.2


def test_noise_is_that_of_its_seed() -> None:
    specs = [Spec("x", "float32", (1, 4))]
    dataset = noise(specs, 2, seed=7)
    first, again = ([sample.inputs["x"] for sample in dataset] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    (other,) = noise(specs, 1, seed=8)
    assert not np.array_equal(first[0], other.inputs["x"])
    assert not np.array_equal(first[0], first[1])


def test_noise_refuses_what_it_cannot_make() -> None:
    with pytest.raises(InputError, match="type str"):
        list(noise([Spec("x", "str", (1,))], 1, 0))
    with pytest.raises(InputError, match="0 samples"):
        noise([], 0, 0)
