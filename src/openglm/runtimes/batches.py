"""Arrays by name for each of several runs, kept in one .npz file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Batch = Mapping[str, np.ndarray]


def save(batches: Sequence[Batch], path: Path) -> None:
    """Keep them at `path`."""
    arrays = {
        f"{place}/{name}": array for place, batch in enumerate(batches) for name, array in batch.items()
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read(path: Path) -> list[dict[str, np.ndarray]]:
    """What `save` kept, in its order."""
    found: dict[int, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as content:
        for key in content.files:
            place, _, name = key.partition("/")
            found.setdefault(int(place), {})[name] = content[key]
    return [found[place] for place in sorted(found)]
