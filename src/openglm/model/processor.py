"""What stands between a user's text or picture and a model's input arrays.

A processor is saved with the bundle as settings in the manifest and, for text, a tokenizer file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Processor(Protocol):
    """Turns a batch of raw inputs into arrays by input name."""

    kind: str
    """"text" or "image"."""

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays for a batch of samples, each a mapping such as {"text": "..."} or {"image": path or array}."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain settings for the manifest, `kind` included; enough, with the saved files, to make it again."""
        ...

    def save(self, folder: Path) -> list[str]:
        """Write what the settings alone do not carry (a tokenizer file); the names written."""
        ...
