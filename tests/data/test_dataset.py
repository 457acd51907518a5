"""Data sets: lazy, re-read each time, cut into halves; and samples that a program has at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from openglm.data import Dataset, Sample, open_data
from openglm.errors import InputError


class Pulled:
    """A source that counts how far it was read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.furthest = 0

    def __call__(self) -> Iterator[Sample]:
        for number in range(self.size):
            self.furthest = max(self.furthest, number + 1)
            yield Sample({"text": str(number)}, number % 2)


def numbers(dataset: Dataset) -> list[int]:
    return [int(sample.inputs["text"]) for sample in dataset]


def test_take_pulls_no_further_than_it_gives() -> None:
    source = Pulled(10**12)
    assert numbers(Dataset("endless", source, labelled=True).take(5)) == [0, 1, 2, 3, 4]
    assert source.furthest == 5


def test_spread_draws_one_from_each_part_and_the_same_again() -> None:
    dataset = Dataset("thousand", Pulled(1000), labelled=True).spread(50)
    found = numbers(dataset)
    assert [number // 20 for number in found] == list(range(50))
    assert found == numbers(dataset)
    assert len({number % 10 for number in found}) > 5, "a regular order must not hide kinds of samples"


def test_spread_takes_all_where_there_are_no_more() -> None:
    assert numbers(Dataset("few", Pulled(3), labelled=True).spread(5)) == [0, 1, 2]
    with pytest.raises(InputError):
        Dataset("few", Pulled(3), labelled=True).spread(0)


def test_halves_are_lazy_and_part_the_samples() -> None:
    source = Pulled(10**12)
    even, odd = Dataset("endless", source, labelled=True).halves()
    assert source.furthest == 0
    assert (numbers(even.take(3)), numbers(odd.take(3))) == ([0, 2, 4], [1, 3, 5])
    assert source.furthest == 6
    assert even.labelled
    assert odd.name == "endless (odd)"


def test_halves_cover_everything_once_and_again() -> None:
    dataset = Dataset("seven", Pulled(7), labelled=True)
    for _ in range(2):
        even, odd = dataset.halves()
        assert sorted(numbers(even) + numbers(odd)) == list(range(7))


def test_records_are_read_again() -> None:
    dataset = open_data([{"text": "a", "label": 1}, {"text": "b", "label": "no"}])
    assert [list(dataset), list(dataset)] == [[Sample({"text": "a"}, 1), Sample({"text": "b"}, "no")]] * 2
    assert dataset.labelled


def test_a_generator_is_read_once_and_no_further_than_the_limit() -> None:
    pulled = []

    def endless() -> Iterator[dict[str, str]]:
        while True:
            pulled.append(1)
            yield {"sentence1": "a", "sentence2": "b"}

    dataset = open_data(endless(), limit=3)
    expected = [Sample({"text": "a", "text_pair": "b"})] * 3
    assert (list(dataset), list(dataset)) == (expected, expected)
    assert len(pulled) == 3


def test_arrays_by_input_name() -> None:
    dataset = open_data([{"x": np.ones(3), "label": np.float32(0.5)}])
    (sample,) = dataset
    assert sample.label == 0.5
    assert sample.inputs["x"].shape == (3,)


def test_a_data_set_and_samples_pass_through() -> None:
    dataset = open_data([Sample({"x": 1}), Sample({"x": 2})])
    assert not dataset.labelled
    assert open_data(dataset) is dataset
    assert len(list(open_data(dataset, limit=1))) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "no samples"),
        (iter([]), "no samples"),
        (["a"], "type str"),
        ({"text": ["a"]}, "type str"),
        (3, "type int"),
        ([{"text": "a"}, {"txt": "b"}], "Sample 2 has no 'text'"),
        ([{"text": "a"}, 5], "Sample 2 is no mapping"),
        ([{"text": "a", "label": []}], "label of type list"),
        ([{"text": 4}], "where a text belongs"),
        ("no/such/file.tsv", "no file or folder"),
    ],
)
def test_what_cannot_be_used_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(open_data(source))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_leaves_something(limit: int) -> None:
    with pytest.raises(InputError):
        open_data([{"text": "a"}], limit=limit)
    with pytest.raises(InputError):
        open_data([{"text": "a"}]).take(limit)
