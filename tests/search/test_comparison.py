"""Two models side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm.errors import InputError
from openglm.search.comparison import compare


def test_a_bundle_and_what_it_was_made_from(bert_folder: Path, bert_bundle: Path, tmp_path: Path) -> None:
    found = compare(str(bert_folder), str(bert_bundle), tmp_path, dims={}, threads=1, rounds=5)
    assert (found.a.name, found.b.name) == (str(bert_folder), str(bert_bundle))
    assert found.b.size_bytes == (bert_bundle / "model.onnx").stat().st_size
    assert found.fidelity > 0.9
    assert found.shape == {"batch": 1, "sequence": 64}
    assert found.a.timing.rounds == 5


def test_the_same_twice(conv_file: Path, tmp_path: Path) -> None:
    found = compare(str(conv_file), str(conv_file), tmp_path, dims={"batch": 2}, threads=1, rounds=5)
    assert found.fidelity == pytest.approx(1.0)
    assert found.a.size_bytes == found.b.size_bytes
    assert found.shape == {"batch": 2}


def test_other_inputs(conv_file: Path, bert_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Compare models with the same inputs"):
        compare(str(conv_file), str(bert_bundle), tmp_path, dims={}, threads=1, rounds=5)


def test_a_program_and_its_large_model(cascade_bundle: Path, tmp_path: Path) -> None:
    large = str(cascade_bundle.parent / "large.onnx")
    found = compare(large, str(cascade_bundle), tmp_path, dims={}, threads=1, rounds=5)
    assert found.b.size_bytes == sum(path.stat().st_size for path in cascade_bundle.glob("*.onnx"))
    assert found.fidelity > 0.9


def test_a_dimension_that_a_bundle_does_not_have(bert_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dimension 'length'"):
        compare(str(bert_bundle), str(bert_bundle), tmp_path, dims={"length": 3}, threads=1, rounds=5)
