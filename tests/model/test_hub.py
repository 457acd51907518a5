"""Hub ids: from the local cache, and never asked for when offline."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openglm.errors import InputError
from openglm.model.sources import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def home(tmp_path: Path, bert_folder: Path) -> Path:
    """A hub cache with one model, as huggingface_hub lays it out."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(bert_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return tmp_path


def test_cached_snapshot(finished: Callable[..., Any], home: Path) -> None:
    ran = finished("inspect", "someone/tiny", "--json", env={"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"})
    assert ran.code == 0, ran.err
    assert '"model": "tiny"' in ran.out


def test_not_cached_and_offline(finished: Callable[..., Any], tmp_path: Path) -> None:
    ran = finished(
        "fit", "someone/other", "-d", "cortex-a53-2gb", env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    )
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "Error: 'someone/other' is not in the local hub cache, and the hub is not to be asked.",
        "Unset HF_HUB_OFFLINE to fetch it, or give a local folder.",
    ]


def test_snapshot_without_weights_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever took only a tokenizer before has such a snapshot."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    half, whole = tmp_path / "half", tmp_path / "whole"
    half.mkdir()
    (half / "config.json").touch()

    def download(_: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        return str(half if local_files_only else whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert hub.folder_of("someone/tiny") == str(whole)
    with pytest.raises(InputError, match="not in the local hub cache"):
        hub.folder_of("someone/tiny", fetch=False)


def test_network_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match=r"cannot be fetched from the hub \(ConnectionError\)"):
        hub.folder_of("someone/tiny")


@pytest.mark.parametrize("text", ["owner/name", "a/b.c-d_e", "sentence-transformers/all-MiniLM-L6-v2"])
def test_what_is_an_id(text: str) -> None:
    assert hub.matches(text)


@pytest.mark.parametrize(
    "text", ["name", "a/b/c", "./a", "../a", "/a/b", "a/", "~/a", "a/net.gguf", "a b/c", "a\\b"]
)
def test_what_is_none(text: str) -> None:
    assert not hub.matches(text)


def test_a_folder_that_exists_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not hub.matches("owner/name")
