"""What stands between a user's text or picture and a model's input arrays.

A processor is saved with the bundle as settings in the manifest and, for text, a tokenizer file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from openglm.errors import InputError, nearest


class Processor(Protocol):
    """Turns a batch of raw inputs into arrays by input name."""

    @property
    def kind(self) -> str:
        """ "text" or "image"."""
        ...

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Arrays for a batch of samples, each such as {"text": "..."} or {"image": path or array}."""
        ...

    def settings(self) -> dict[str, Any]:
        """Settings for the manifest, `kind` included; enough, with the saved files, to make it again."""
        ...

    def save(self, folder: Path) -> list[str]:
        """Write what the settings alone do not carry (a tokenizer file); the names written."""
        ...


def from_settings(settings: Mapping[str, Any], folder: Path) -> Processor:
    """The processor that `settings()` described and whose files `save` wrote into `folder`.

    The names of those files, which a manifest keeps as "files", may be among the settings. Raises
    `InputError` where the kind is unknown or settings or files are broken.
    """
    settings = {name: value for name, value in settings.items() if name != "files"}
    kind = settings.get("kind")
    if kind == "text":
        from openglm.model.processors.text_processor import TextProcessor

        return TextProcessor.from_settings(settings, folder)
    if kind == "image":
        from openglm.model.processors.image_processor import ImageProcessor

        return ImageProcessor.from_settings(settings)
    raise InputError(f"There is no processor of kind '{kind}'.", nearest(str(kind), ("text", "image")))
