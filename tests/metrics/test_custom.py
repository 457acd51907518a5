"""Metrics by name, and a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.errors import InputError
from openglm.metrics import Evaluation, Score, names, resolve

SOURCE = """
import numpy as np

def largest(outputs, labels, reference):
    return np.abs(outputs["y"] - reference["y"]).max()

largest.higher_is_better = False
largest.needs_reference = True

def detailed(outputs, labels, reference):
    return {"value": 1, "rows": len(labels)}

def wrong(outputs, labels, reference):
    return {"rows": 1}

def nothing(outputs, labels, reference):
    return None

def nan(outputs, labels, reference):
    return float("nan")

def raises(outputs, labels, reference):
    return outputs["other"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    return name


def evaluation() -> Evaluation:
    return Evaluation({"y": np.array([1.0, 5.0])}, {"y": np.array([1.0, 2.0])}, np.array([0, 1]))


def test_metrics_are_found_by_their_files() -> None:
    assert set(names()) >= {"accuracy", "fidelity", "spearman"}
    assert {resolve(name).name for name in names()} == set(names())
    assert not resolve("fidelity").needs_labels
    assert resolve("accuracy").needs_labels


def test_an_unknown_metric() -> None:
    with pytest.raises(InputError, match="no metric 'acuracy'") as raised:
        resolve("acuracy")
    assert "accuracy" in raised.value.advice


def test_a_function_of_the_users(module: str) -> None:
    metric = resolve(f"{module}:largest")
    assert metric.score(evaluation()) == Score(3.0)
    assert (metric.higher_is_better, metric.needs_labels, metric.needs_reference) == (False, False, True)
    assert resolve(f"{module}:detailed").score(evaluation()) == Score(1.0, {"rows": 2.0})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong", "returned"),
        ("nothing", "returned None"),
        ("nan", "returned nan"),
        ("raises", "raised KeyError"),
    ],
)
def test_a_function_that_fails(module: str, function: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(f"{module}:{function}").score(evaluation())


@pytest.mark.parametrize("name", ["no_such_module_here:f", ":f", "broken_metric:f"])
def test_a_module_that_cannot_be_imported(name: str, module: str) -> None:
    Path("broken_metric.py").write_text("def f(:")
    with pytest.raises(InputError, match="cannot be imported"):
        resolve(name)


def test_a_function_that_is_not_there(module: str) -> None:
    with pytest.raises(InputError, match="no function 'largst'") as raised:
        resolve(f"{module}:largst")
    assert "largest" in raised.value.advice


def test_the_path_is_left_as_it_was(module: str) -> None:
    import sys

    before: list[Any] = list(sys.path)
    resolve(f"{module}:largest")
    assert sys.path == before
