"""What a training keeps on disk, so that it can be stopped at any moment and goes on as if it had not been.

One file holds it all, tensors as safetensors and the rest as JSON in their header, and replaces the
one before it whole. It is a cache: a file that is broken, or of another training, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

FILE = "training.safetensors"
_FORMAT = 1

State = dict[str, torch.Tensor]


def state_of(module: nn.Module) -> State:
    """Copies of parameters and buffers by name on the CPU; one that is shared is there once."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in _tensors(module)}


def restore(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Write what `state_of` gave back into the module's own tensors."""
    with torch.no_grad():
        for name, tensor in _tensors(module):
            tensor.copy_(state[name])


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def fingerprint(module: nn.Module, *others: str) -> str:
    """A hash of a module's tensors, names and values, and of what else a training depends on."""
    digest = hashlib.sha256(json.dumps([_FORMAT, *others]).encode())
    for name, tensor in state_of(module).items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write(folder: Path, groups: Mapping[str, State], record: Mapping[str, Any]) -> None:
    """Replace the folder's checkpoint by groups of tensors and a record that JSON can hold.

    Raises `OSError` where it cannot be written; the one before it is then still there.
    """
    part = folder / f"{FILE}.{os.getpid()}.part"
    tensors = {f"{group}/{name}": value for group, state in groups.items() for name, value in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, {"record": json.dumps(record)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(folder / FILE)
    except SafetensorError as error:  # how the library tells of a full disk
        raise OSError(str(error)) from error
    finally:
        with suppress(OSError):
            part.unlink()


def read(folder: Path, key: str) -> tuple[dict[str, State], dict[str, Any]] | None:
    """What `write` was last given, where that is whole and its record's "key" is `key`."""
    try:
        with safe_open(folder / FILE, "pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {})["record"])
            if record["key"] != key:
                return None
            groups: dict[str, State] = {}
            for name in file.keys():  # noqa: SIM118  # the file is no mapping
                group, _, rest = name.partition("/")
                groups.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return groups, record
