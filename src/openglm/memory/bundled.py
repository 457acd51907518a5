"""The plans of a bundle: one for each segment of its program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openglm.bundle.manifest import Arena, Program
from openglm.errors import InputError
from openglm.memory.plan import Plan, plan
from openglm.model.analysis.shapes import resolve
from openglm.model.model import Model
from openglm.model.sources import onnx_file

FILE = "plan.json"
ENGINE = "onnxruntime"
"""Whose files of the segments are the graphs."""
SECONDS = 5.0
"""For each segment while a bundle is made."""


def models(folder: Path, program: Program) -> dict[str, Model]:
    """The graph of each segment by the segment's name."""
    found = {}
    for segment in program.segments:
        path = folder / segment.models[ENGINE]
        graph = onnx_file.read(path)
        found[segment.name] = Model(segment.name, str(path), "generic", export=lambda graph=graph: graph)  # type: ignore[misc]
    return found


def own_dims(model: Model, dims: Mapping[str, int]) -> dict[str, int]:
    """Those of the sizes that are of this graph's dimensions: a later segment has not all of them."""
    return {name: size for name, size in dims.items() if name in resolve(model.graph).dims}


def plans(folder: Path, program: Program, dims: Mapping[str, int], **settings: Any) -> dict[str, Plan]:
    """The plan of each segment whose tensors' sizes are known beforehand; `settings` as in `plan`."""
    found = {}
    for name, model in models(folder, program).items():
        try:
            found[name] = plan(model, dims=own_dims(model, dims), **settings)
        except InputError:  # what data decides has no plan, and a bundle needs none
            continue
    return found


def write(folder: Path, found: Mapping[str, Plan]) -> tuple[Arena, ...]:
    """Write plans into a bundle's folder; what its manifest says of them."""
    content = {name: planned.model_dump(mode="json") for name, planned in found.items()}
    (folder / FILE).write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    return tuple(
        Arena(
            segment=name,
            arena_bytes=planned.arena_bytes,
            lower_bound=planned.lower_bound,
            optimal=planned.optimal,
            greedy_bytes=planned.greedy_bytes,
        )
        for name, planned in found.items()
    )


def read(path: Path) -> dict[str, Plan]:
    """The plans that `write` wrote."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: Plan.model_validate(planned) for name, planned in content.items()}
