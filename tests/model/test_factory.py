"""`module:function`: a model that a function of the user's makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from openglm import AutoModel
from openglm.errors import InputError

CODE = """
import torch
from openglm import AutoModel

def pair():
    return torch.nn.Linear(4, 2), (torch.zeros(1, 4),)

def wrapped():
    return AutoModel.wrap(torch.nn.Linear(4, 3), (torch.zeros(1, 4),), name="mine", task="classification")

def nothing():
    return 7

def broken():
    raise RuntimeError("no weights")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_module_and_example(folder: str) -> None:
    model = AutoModel.from_pretrained(f"{folder}:pair")
    assert model.name == "pair"
    assert model.source == f"{folder}:pair"
    assert [spec.shape[1] for spec in model.outputs] == [2]
    assert model.module.out_features == 2


def test_model(folder: str) -> None:
    model = AutoModel.from_pretrained(f"{folder}:wrapped")
    assert (model.name, model.task) == ("mine", "classification")


@pytest.mark.parametrize(
    ("name", "words"),
    [("pare", "pair"), ("nothing", "returned int"), ("broken", "no weights")],
)
def test_bad_functions(folder: str, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        AutoModel.from_pretrained(f"{folder}:{name}")


def test_missing_module(folder: str) -> None:
    with pytest.raises(InputError, match="cannot be made: ModuleNotFoundError"):
        AutoModel.from_pretrained("no_such_module_here:make")
