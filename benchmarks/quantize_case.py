"""What the quantization benchmark compares: the candidates of one model, and what is asked of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openglm import passes
from openglm.model.sources import onnx_file
from openglm.passes.contract import Context, parse_step
from openglm.runtimes.onnxruntime import Runner
from peers import Batch, Run, openvino_run

Kind = Literal["fp32", "ours", "peer"]


@dataclass(frozen=True)
class Candidate:
    """A model file and the engine that runs it."""

    name: str
    kind: Kind
    path: Path
    engine: str = "ONNX Runtime"
    hint: str | None = None
    """OpenVINO's INFERENCE_PRECISION_HINT; its default where None."""

    @property
    def size(self) -> int:
        """Bytes of the model's file or files."""
        weights = self.path.with_suffix(".bin")
        return self.path.stat().st_size + (weights.stat().st_size if self.path.suffix == ".xml" else 0)

    def open(self, shapes: Mapping[str, list[int]] | None = None) -> Run:
        """The model loaded on one thread; `shapes`, where they are known, let OpenVINO compile for them."""
        if self.engine == "OpenVINO":
            return openvino_run(self.path, shapes, self.hint)
        runner = Runner(self.path, threads=1)
        return lambda batch: next(iter(runner.run(batch).values()))

    def digest(self) -> str:
        """Changes with whatever the model's outputs depend on."""
        found = hashlib.sha256(f"{self.engine} {self.hint}".encode())
        for path in (self.path, self.path.with_suffix(".bin")):
            if path.is_file():
                found.update(path.read_bytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Judgement:
    """A metric over the evaluation data, higher is better."""

    value: float
    right: str = ""
    """Where the metric is a share of samples: 1 or 0 for each, whether it is among them."""


def chance(one: Judgement, other: Judgement) -> float:
    """The standard error of the difference of two shares over the same samples; 0 for other metrics."""
    if not one.right:
        return 0.0
    apart = np.array(list(one.right), int) - np.array(list(other.right), int)
    return float(apart.std() / np.sqrt(len(apart)))


@dataclass(frozen=True)
class Case:
    """One model with its candidates, its judge and its targets."""

    title: str
    about: str
    """What is measured, on which data: the text above the table."""
    metric: str
    samples: int
    candidates: Sequence[Candidate]
    latency_input: Batch
    judge: Callable[[Run], Judgement]
    """The metric, higher is better, of a model over the evaluation data."""
    allowed: float
    """The loss of the metric that a candidate may have and still be compared."""
    faster: float
    """How many times faster than fp32 ours must be."""
    folder: Path

    @property
    def fp32(self) -> Candidate:
        """What everything is measured against."""
        return self.candidates[0]

    def quality(self, candidate: Candidate) -> Judgement:
        """The metric; judged once for each model file and kept."""
        kept = self.folder / "quality.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        key = f"{self.metric} {self.samples} {candidate.digest()}"
        if key not in known:
            print(f"judging: {candidate.name}", flush=True)
            known[key] = asdict(self.judge(candidate.open()))
            kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
        return Judgement(**known[key])


def by_peer(path: Path, make: Callable[..., None], source: Path, *arguments: Any, **settings: Any) -> Path:
    """The file that a peer makes; made once. Its name carries the version, so a new one is made anew."""
    if not path.is_file():
        print(f"making: {path.name}", flush=True)
        make(source, path, *arguments, **settings)
    return path


def by_us(
    folder: Path, source: Path, recipe: Sequence[Mapping[str, Any]], batches: Callable[[], Iterable[Batch]]
) -> Path:
    """The file that a recipe makes; made anew where the source, the recipe or a pass has changed."""
    depends = hashlib.sha256(json.dumps(recipe).encode())
    for path in (source, *sorted(Path(passes.__path__[0]).glob("*.py"))):
        depends.update(path.read_bytes())
    path = folder / f"openglm-{depends.hexdigest()[:16]}.onnx"
    if not path.is_file():
        print(f"making: {spelled(recipe)}", flush=True)
        graph = onnx_file.read(source)
        for step in recipe:
            graph = parse_step(step).apply(graph, Context(calibration=batches)).graph
        onnx_file.write(graph, path)
    return path


def spelled(recipe: Sequence[Mapping[str, Any]]) -> str:
    """A recipe as `openglm optimize` writes it."""
    return " + ".join(parse_step(step).code for step in recipe)


def float_row(array: np.ndarray) -> np.ndarray:
    """The first row of an output, in double precision."""
    return np.asarray(array[0], np.float64)
