"""The manifest `openglm.json`: all that is known of a bundle, in one file.

Figures say where they are from: `measured` ones name host, engine and threads (`Host`), predicted
ones the device (`verdicts`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from openglm.model.tensor import TensorSpec

FORMAT: Literal[1] = 1
FILE = "openglm.json"
Precision = Literal["fp32", "fp16", "int8", "int4"]
"""What weights are held in; with integers an engine that can quantizes activations too."""


ALIKE = 1.05
"""How much longer fewer threads may take: more of them cost a phone's battery and its other apps."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """What the bundle was made from."""

    name: str
    source: str
    bytes: int
    """Size of the original graph as a file."""
    parameters: int


class Segment(_Part):
    """One static graph of the program, as a file for each engine that can run it."""

    name: str
    models: dict[str, str]
    """File name by engine."""
    outputs: tuple[TensorSpec, ...] = ()
    """What it leaves for the nodes after it, where there are any."""
    work: float = 1.0
    """Its multiply-accumulates as a share of the whole model's."""
    next: str | None = None
    """The node that runs after it; none: it ends the program."""


class Gate(_Part):
    """A decision on the host, row by row, on what runs next."""

    name: str
    kind: str
    """"confidence", "entropy", "patience", "learned", "wake", "length", "size" or "tokens"."""
    settings: dict[str, Any] = {}
    """The fields of that kind."""
    routes: tuple[str | None, ...] = Field(min_length=1)
    """The nodes it chooses among, in the order that its kind gives them; none: the end."""


class Program(_Part):
    """What a session runs: segments, and the gates between them. One segment is a whole model."""

    segments: tuple[Segment, ...] = Field(min_length=1)
    gates: tuple[Gate, ...] = ()
    start: str | None = None
    """The node that runs first; the first segment, if not given."""

    @property
    def first(self) -> str:
        """The node that runs first."""
        return self.start or self.segments[0].name

    def after(self, name: str) -> tuple[str | None, ...]:
        """Where rows may go from a node."""
        for segment in self.segments:
            if segment.name == name:
                return (segment.next,)
        return next(gate.routes for gate in self.gates if gate.name == name)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The nodes that rows can reach, each after all that lead to it."""
        found: list[str] = []
        above: list[str] = []

        def visit(name: str) -> None:
            if name in above:
                raise ValueError(f"the program runs in a loop through '{name}'")
            if name in found:
                return
            above.append(name)
            for following in self.after(name):
                if following is not None:
                    visit(following)
            above.pop()
            found.append(name)

        visit(self.first)
        return tuple(reversed(found))

    @model_validator(mode="after")
    def _sound(self) -> Program:
        names = [*(segment.name for segment in self.segments), *(gate.name for gate in self.gates)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two nodes of the program are called '{twice}'")
        targets = [self.first, *(target for name in names for target in self.after(name))]
        if missing := next((name for name in targets if name is not None and name not in names), None):
            raise ValueError(f"the program leads to '{missing}', which it does not have")
        if idle := next((name for name in names if name not in self.order), None):
            raise ValueError(f"the program never comes to its '{idle}'")
        return self


class Host(_Part):
    """Where figures were measured."""

    processor: str
    cores: int
    system: str
    python: str
    engine: str
    threads: int


class Timing(_Part):
    """Latency over interleaved rounds, in milliseconds."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    rounds: int


class Quality(_Part):
    """A metric's value, and the figures beside it."""

    metric: str
    value: float
    higher_is_better: bool = True
    details: dict[str, float] = {}
    samples: int


class Candidate(_Part):
    """One recipe that was tried."""

    code: str
    """The schemes joined by " + "."""
    recipe: tuple[dict[str, Any], ...]
    outcome: Literal["chosen", "accepted", "refused", "failed", "not tried"]
    reason: str
    size_bytes: int | None = None
    timing: Timing | None = None
    original: Timing | None = None
    """The original's, measured in the same rounds."""
    speedup: float | None = None
    """How many times faster than the original: the median over the rounds."""
    quality: Quality | None = None
    loss: float | None = None
    """How much worse the quality is than the original's on the same samples; below zero where better."""
    notes: tuple[str, ...] = ()
    fits: bool | None = None
    """Whether the device's budget is predicted to be met."""
    seconds: float = 0.0
    """Spent on this candidate."""
    spent: dict[str, float] = {}
    """Of which on what: pruning, training, exporting, quantizing, judging, measuring, waiting."""
    effort: int = 0
    """How often it was trained: a recipe that shows promise is trained again, longer."""


class Sensitivity(_Part):
    """What one technique, on one part of the model alone, costs."""

    part: str
    modules: tuple[str, ...]
    """The paths of the part's layers."""
    technique: str
    """"int8", "half its neurons", "half its heads", "half its rank", "half its channels", "left out"."""
    cost: float
    """Of fidelity, over a few calibration samples."""


class Figures(_Part):
    """What is measured of one model."""

    size_bytes: int
    timing: Timing
    load_ms: float | None
    peak_memory_mb: float | None
    """Resident memory that loading and running adds to a fresh process."""
    quality: Quality


class ThreadCount(_Part):
    """What the result takes with so many threads."""

    threads: int = Field(ge=1)
    timing: Timing


class Recalibration(_Part):
    """Thresholds that were set again on other data, after the rest of the manifest was measured."""

    created: str
    """ISO 8601, UTC."""
    command: str
    data: str
    samples: int
    max_drop: float
    """What the gates may cost in the mean."""
    certainty: float
    work: tuple[float, float]
    """The mean share of the whole model's work on these samples, with the thresholds before and after."""
    drop: tuple[float, float]
    """The mean loss beyond the whole model's, before and after."""
    notes: tuple[str, ...]


class Target(_Part):
    """Another engine that the program was converted to, and how that was proven."""

    engine: str
    version: str
    """Of the engine, when it was proven."""
    precision: Precision
    difference: float | None = None
    """The largest difference of an output from what the bundle's own engine gave, as a share of the largest
    output. None where the engine does not run on the machine that converted: its files were checked against
    the graphs, and nothing of it was measured."""
    mean_difference: float | None = None
    """The mean difference, as a share of the same."""
    cosine: float | None = None
    """Between all its outputs and the bundle's own engine's."""
    quality: Quality | None = None
    """By the data that was given, if any was."""
    samples: int
    """On how many inputs they were compared."""
    same_way: float | None = None
    """Where the program has gates, the share of the inputs that took the same way through them; differences
    are those of these inputs."""
    size_bytes: int
    load_ms: float | None = None
    peak_memory_mb: float | None = None
    operators: dict[str, tuple[str, ...]] = {}
    """What runs which operators, where the engine tells, the processor that was asked for first."""
    timing: Timing | None = None
    speedup: float | None = None
    """How many times faster than the bundle's own engine: the median over rounds of all in turn."""
    host: Host
    created: str
    """ISO 8601, UTC."""

    @property
    def ran(self) -> bool:
        """Whether it was run, and not checked alone."""
        return self.difference is not None

    @property
    def elsewhere(self) -> dict[str, tuple[str, ...]]:
        """The operators that the processor asked for does not run, by what runs them."""
        _, *others = self.operators.items() or [("", ())]
        return {name: operators for name, operators in others if operators}


class Arena(_Part):
    """The memory that a segment's tensors need, planned; the offsets are in the file `plans`."""

    segment: str
    arena_bytes: int
    lower_bound: int
    """No plan in the order of the graph needs less."""
    optimal: bool
    greedy_bytes: int
    """What TensorFlow Lite's planner makes of the same tensors."""


class File(_Part):
    """A file of the bundle."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(_Part):
    """The content of `openglm.json`."""

    format: Literal[1] = FORMAT
    openglm: str
    """Version of the package that wrote it."""
    created: str
    """ISO 8601, UTC."""
    command: str
    name: str
    task: str
    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    processor: dict[str, Any] | None
    """Settings of what turns text or pictures into inputs."""
    classes: tuple[str, ...] | None = None
    """The names of a classifier's outputs in order, where they are known."""
    program: Program
    recipe: tuple[dict[str, Any], ...]
    """The passes that were applied, in order, with their configs."""
    device: dict[str, Any]
    """The profile that it was made for."""
    budget: dict[str, Any]
    max_drop: float
    """How much of the metric a candidate was allowed to lose."""
    verdict_before: dict[str, Any]
    verdict_after: dict[str, Any]
    """Predicted for the device, as `openglm fit --json` gives them."""
    layers: tuple[dict[str, Any], ...] = ()
    """Predicted cost on the device, layer by layer, before and after."""
    before: Figures
    after: Figures
    speedup: float
    """How many times faster the result is than the original: the median over rounds of both in turn."""
    mean_work: float | None = Field(default=None, ge=0)
    """What a program does in the mean of the samples that judge, as a share of the whole model's
    multiply-accumulates."""
    candidates: tuple[Candidate, ...]
    sensitivities: tuple[Sensitivity, ...] = ()
    elapsed_s: float | None = None
    """How long the search took, all its runs together."""
    calibration: str
    """What data the ranges were taken from and the quality was judged on, in a sentence."""
    training: str | None = None
    """What data was trained on."""
    shape: dict[str, int]
    """Sizes of the named dimensions that were measured and predicted with."""
    host: Host
    versions: dict[str, str]
    threads: tuple[ThreadCount, ...] = ()
    """The result with one thread, two, and so on up to the device's cores, as far as the host has them,
    measured in turn."""
    probes: str | None = None
    """The .npz with inputs and the outputs they gave when the bundle was made."""
    rounding: float = 0.0
    """How far these outputs move where floats are rounded otherwise, as on another processor, as a share of
    the largest output."""
    arenas: tuple[Arena, ...] = ()
    """Of the segments whose tensors' sizes are known beforehand, with the sizes in `shape`."""
    plans: str | None = None
    """The file with a plan for each of them."""
    recalibrated: tuple[Recalibration, ...] = ()
    """The latest last."""
    targets: tuple[Target, ...] = ()
    """The engines that were added to it."""
    files: dict[str, File]
    """Every file of the bundle but this one, by its path in the folder."""

    @property
    def best_threads(self) -> int | None:
        """The fewest threads that are about as fast as any number that was measured; none if none was."""
        if not self.threads:
            return None
        best = min(item.timing.median_ms for item in self.threads)
        return min(item.threads for item in self.threads if item.timing.median_ms <= ALIKE * best)
