"""Models on the Hugging Face hub, by id; taken from the local cache when they are there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from openglm.errors import InputError, MissingExtraError
from openglm.model.model import Model

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A path that is mistyped is no id to ask the network for.
_FILES = (".tflite", ".gguf", ".bin", ".pt", ".pth", ".h5", ".keras", ".pb", ".safetensors", ".zip", ".json")
# Weights as safetensors only: the other format is a pickle.
_WANTED = ["*.json", "*.txt", "*.safetensors", "*.model"]


def matches(source: str) -> bool:
    """Whether `source` has the form owner/name and is no path of a file or folder."""
    path = Path(source)
    return bool(_ID.fullmatch(source)) and not path.exists() and path.suffix.lower() not in _FILES


def load(source: str) -> Model:
    """The model of a hub id: from the cache, else fetched, unless HF_HUB_OFFLINE is set."""
    from openglm.model.sources import transformers_folder

    model = transformers_folder.load(folder_of(source))
    model.source = source
    model.name = source.split("/")[1].lower()
    return model


def folder_of(hub_id: str, fetch: bool = True) -> str:
    """The local folder of a hub id's files; raises `InputError` where it cannot be had."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub, which fetches models by hub id,", "transformers") from error
    missing: Exception | None = None
    try:
        found = Path(snapshot_download(hub_id, allow_patterns=_WANTED, local_files_only=True))
        # Whoever took only the tokenizer before left a snapshot without weights.
        if (found / "config.json").is_file() and any(found.glob("*.safetensors")):
            return str(found)
    except Exception as error:  # not cached
        missing = error
    if not fetch or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(
            f"'{hub_id}' is not in the local hub cache, and the hub is not to be asked.",
            "Unset HF_HUB_OFFLINE to fetch it, or give a local folder.",
        ) from missing
    try:
        return str(snapshot_download(hub_id, allow_patterns=_WANTED))
    except Exception as error:  # requests, httpx and the hub's own kinds
        raise InputError(
            f"'{hub_id}' cannot be fetched from the hub ({type(error).__name__}).",
            "Check the id and the network, or give a local folder.",
        ) from error
