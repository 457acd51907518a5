"""What a bundle takes and gives, for whoever feeds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openglm.bundle.manifest import Manifest
from openglm.model.processors.processor import Processor, from_settings
from openglm.model.tensor import TensorSpec


@dataclass(frozen=True)
class Bundled:
    """A bundle's model or program, as a `Model` is seen by its data."""

    name: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    processor: Processor | None
    gated: bool
    """Whether inputs take different ways through it."""
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> Bundled:
        """That of the bundle in a folder."""
        processor = None if manifest.processor is None else from_settings(manifest.processor, folder)
        return cls(
            manifest.name,
            manifest.task,
            manifest.inputs,
            manifest.outputs,
            processor,
            bool(manifest.program.gates),
            manifest.classes,
        )
