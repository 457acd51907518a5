"""A spoilt sentence, and the marks of what is wrong in it."""

from __future__ import annotations

import random
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

TEXTS = ("The cats have walked home", "A dog walks to the river", "She likes him and he likes her a lot")


@pytest.fixture
def spoiler(tasks: ModuleType) -> Any:
    from spoiling import Spoiler

    return Spoiler(TEXTS)


def test_what_is_marked_is_what_differs(spoiler: Any) -> None:
    known = Counter(word for text in TEXTS for word in text.split())
    kinds: Counter[str] = Counter()
    for seed in range(600):
        own = TEXTS[seed % 3].split()
        words, marks = spoiler(" ".join(own), random.Random(seed))
        assert len(words) == len(marks)
        assert set(marks) <= {0, 1}
        kinds[("fewer", "same", "more")[(len(words) > len(own)) - (len(words) < len(own)) + 1]] += 1
        if words == own:
            kinds["unchanged"] += 1
        else:
            assert any(marks), f"{own} became {words}"
        # What is not marked is from the sentence, in its order.
        left = iter(own)
        unmarked = [word for word, mark in zip(words, marks, strict=True) if not mark]
        assert all(word in left for word in unmarked), f"{own} became {words}, {marks}"
        for word in words:
            assert word in known or word.lower() in spoiler.forms
    assert min(kinds["fewer"], kinds["same"], kinds["more"]) > 40
    assert kinds["unchanged"] < 120


def test_forms_are_of_words_that_occur_or_of_one_closed_class(spoiler: Any) -> None:
    assert spoiler.forms["him"] == ["he", "himself", "his"]
    assert "walked" not in spoiler.forms, "no other form of it occurs"
    assert {"an", "the", "every"} <= {*spoiler.forms["a"]}


def test_the_same_again_and_the_shortest(spoiler: Any) -> None:
    assert spoiler(TEXTS[0], random.Random(1)) == spoiler(TEXTS[0], random.Random(1))
    for seed in range(100):
        words, marks = spoiler("Go", random.Random(seed))
        assert len(words) == len(marks) >= 1
