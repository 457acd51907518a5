"""The zoo: weights are checked, and what is missing is said with how to get it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from openglm import hashing
from openglm.errors import InputError
from openglm.model.auto import AutoModel
from openglm.model.sources import hub, zoo

NAME = "all-minilm-l6-v2"


def test_by_name() -> None:
    if not zoo.ZOO[NAME].available():
        pytest.skip(f"the weights of {NAME} are not installed: {zoo.ZOO[NAME].install}")
    model = AutoModel.from_pretrained(NAME)
    assert (model.name, model.source, model.task) == (NAME, NAME, "embedding")


def test_changed_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(zoo.Entry, "folder", lambda _: tmp_path)
    with pytest.raises(InputError, match="missing from their package or changed"):
        AutoModel.from_pretrained(NAME)


def test_not_installed_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(zoo.ZOO[NAME], package="no_such_package_of_weights")
    monkeypatch.setitem(zoo.ZOO, NAME, absent)

    def offline(_: str) -> str:
        raise InputError("Offline.", "Go online.")

    monkeypatch.setattr(hub, "folder_of", offline)
    assert not absent.available()
    with pytest.raises(InputError, match="The weights are not installed") as caught:
        AutoModel.from_pretrained(NAME)
    assert absent.install in caught.value.advice


def test_a_package_of_the_checkout_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "open-autoglm-base"
    absent = dataclasses.replace(zoo.ZOO[name], package="no_such_package_of_weights")
    monkeypatch.setitem(zoo.ZOO, name, absent)
    with pytest.raises(InputError) as caught:
        AutoModel.from_pretrained(name)
    assert (
        caught.value.problem
        == "The weights are not installed: there is no package no_such_package_of_weights."
    )
    command = "pip install --no-deps zoo/open-autoglm-base"
    assert caught.value.advice == f"Install them in a checkout of Open-AutoGLM: {command}."
    assert (Path(__file__).parents[2] / command.split()[-1] / "pyproject.toml").is_file()

    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(zoo.Entry, "folder", lambda _: tmp_path)
    with pytest.raises(InputError) as caught:
        AutoModel.from_pretrained(name)
    assert caught.value.advice.endswith(f"in a checkout of Open-AutoGLM: {command} --force-reinstall.")


def test_hash_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    before = hashing.sha256_once(path)
    path.write_bytes(b"three")
    assert hashing.sha256_once(path) != before
