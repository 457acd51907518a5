"""The verdict: does a model fit a device within a budget, what limits it, and what would have to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from openglm.device import instructions, profile
from openglm.device.advice import Action, Predicted, advise
from openglm.device.budget import Budget
from openglm.device.energy import active_power_w, energy_mj, inferences_per_charge
from openglm.device.footprint import Footprint, footprint, initialisation_ms, read_ms
from openglm.device.heat import Rate, rate
from openglm.device.instructions import Counted
from openglm.device.language import TokenRate, token_rate
from openglm.device.latency import LatencyPrediction, predict
from openglm.device.phone.calibration import calibrate
from openglm.device.phone.estimate import RUNTIMES, Runtime, outside, refine
from openglm.device.profile import Device, Unit, UnitKind
from openglm.device.sustain import Load, Sustained, sustain
from openglm.errors import InputError, nearest
from openglm.memory.lifetime import peak_activation_bytes
from openglm.model.analysis.statistics import Statistics, analyse
from openglm.model.model import Model

__all__ = ["Budget", "Limit", "Load", "Verdict", "fit", "judge"]

DEFAULT_THREADS = 4
"""Threads where none are asked for and the CPU has as many cores: more rarely help on phones."""

UnitChoice = Literal["cpu", "gpu", "npu", "best"]


class UnitError(InputError):
    """The device has no such processor, or none that computes in the model's precision."""


class Limit(BaseModel):
    """One figure of the verdict beside its budget."""

    model_config = ConfigDict(frozen=True)

    name: Literal["latency", "memory", "size", "energy", "load", "rate"]
    predicted: float
    budget: float | None
    """None where the budget sets no limit; such a one is always kept. Of a rate, the least."""
    ok: bool
    unit: str
    bound: str
    """What limits it, in plain words."""


class UnitLatency(BaseModel):
    """What another processor of the device would need."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: UnitKind
    latency_ms: float | None
    """None where the unit does not compute in the model's precision."""


class LayerCost(BaseModel):
    """One layer's share of the predicted latency."""

    model_config = ConfigDict(frozen=True)

    name: str
    op_type: str
    ms: float
    bound: str
    macs: int
    weight_bytes: int
    precision: str
    shape: tuple[int, ...] | None


class Verdict(BaseModel):
    """Whether a model fits a device. Every figure in it is predicted, none measured."""

    model_config = ConfigDict(frozen=True)

    model: str
    device: str
    fits: bool
    limits: list[Limit]
    action: Action
    advice: str
    unit: str
    threads: int
    dims: dict[str, int]
    """The sizes given to the model's symbolic dimensions."""
    rate: Rate
    power_w: float
    """Above idle, while the model runs."""
    inferences_per_charge: int | None
    tokens_per_s: TokenRate | None
    """For a language model."""
    sustained: Sustained | None = None
    """What becomes of the load that was asked about."""
    units: list[UnitLatency]
    """For information: the verdict is on `unit`."""
    latency_interval: tuple[float, float] | None
    """Milliseconds between which nine of ten models are; none where no measurement says."""
    runtime: Runtime
    not_on_npu: dict[str, int]
    """Where the verdict is for an NPU: operators that `runtime` will not run on it, and how many."""
    predicted_by: str
    unknown_operators: list[str]
    unknown_shapes: list[str]
    layers: list[LayerCost]

    def to_json(self, *, layers: bool = False) -> dict[str, Any]:
        """A plain dictionary; with the cost of each layer only where asked."""
        return self.model_dump(mode="json", exclude=None if layers else {"layers"})

    def limit(self, name: str) -> Limit:
        """The limit called "latency", "memory", "size", "energy", "load" or "rate"."""
        return next(limit for limit in self.limits if limit.name == name)


def fit(
    model: Model | str | PathLike[str],
    device: str | PathLike[str] | Device,
    budget: Budget | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    unit: UnitChoice = "cpu",
    load: Load | None = None,
    runtime: Runtime = "onnxruntime",
    measured: str | PathLike[str] | None = None,
    counts: str | PathLike[str] | None = None,
) -> Verdict:
    """Say whether `model` fits `device` within `budget`, from its graph alone and in seconds.

    `model` is a `Model` or anything that `AutoModel.from_pretrained` takes, `device` a profile, its
    name or a file. `dims` sets symbolic input dimensions. The verdict is for the CPU unless `unit`
    says otherwise, because that is where a bundle's engine runs; "best" takes the fastest unit.
    With `load` it also says whether that rate can be held so long, and does not fit where it cannot.
    `runtime` is the engine on an NPU. `measured` is a CSV file (model, latency_ms) of your own
    measurements of that unit, which re-calibrate the prediction. `counts` is a file of instructions that
    `openglm compare --cpu` counted, from which the CPU's latency is predicted.
    Raises `InputError` for a model, device, dimension, thread count, unit, runtime or file that cannot
    be used.
    """
    if not isinstance(model, Model):
        from openglm.model.auto import AutoModel

        model = AutoModel.from_pretrained(model)
    device = profile.load(device if isinstance(device, Device) else str(device))
    statistics = analyse(model.graph, dims)
    memory = footprint(statistics, peak_activation_bytes(statistics.shapes))
    return judge(
        model,
        device,
        statistics,
        memory,
        budget,
        threads=threads,
        unit=unit,
        load=load,
        runtime=runtime,
        measured=measured,
        counts=counts,
    )


def judge(
    model: Model,
    device: Device,
    statistics: Statistics,
    memory: Footprint,
    budget: Budget | None = None,
    *,
    threads: int | None = None,
    unit: UnitChoice = "cpu",
    load: Load | None = None,
    runtime: Runtime = "onnxruntime",
    measured: str | PathLike[str] | None = None,
    counts: str | PathLike[str] | None = None,
) -> Verdict:
    """The verdict of `fit` on a graph that was analysed already, and that needs `memory`."""
    if threads is not None and threads < 1:
        raise InputError(f"A model cannot run on {threads} threads.", "Give at least 1.")
    if runtime not in RUNTIMES:
        raise InputError(f"There is no runtime '{runtime}' to predict.", nearest(runtime, RUNTIMES))
    budget = budget or Budget()
    if budget.memory_mb is None:
        budget = budget.model_copy(update={"memory_mb": device.app_memory_mb})
    threads = threads or DEFAULT_THREADS
    counted = None if counts is None else instructions.read(Path(counts))
    chosen, units = _latency(statistics, device, unit, threads, runtime, counted)
    if measured is not None:
        chosen = _calibrated(chosen, Path(measured), device, threads, runtime, counted)
    reading, starting = read_ms(statistics, device), initialisation_ms(statistics, device)
    predicted = Predicted(
        statistics=statistics,
        latency=chosen,
        device=device,
        memory=memory,
        energy_mj=energy_mj(chosen),
        load_ms=reading + starting,
    )
    limits = _limits(predicted, budget, reading)
    sustained = sustain(chosen, device, load) if load else None
    if sustained is not None and sustained.asked_per_s:
        limits.append(_rate_limit(sustained))
        budget = _fast_enough(budget, sustained)
    action, advice = advise(predicted, budget)
    language = model.task == "text-generation"
    return Verdict(
        model=model.name,
        device=device.name,
        fits=all(limit.ok for limit in limits),
        limits=limits,
        action=action,
        advice=advice,
        unit=chosen.unit.name,
        threads=chosen.threads,
        dims=statistics.shapes.dims,
        rate=rate(chosen, device),
        power_w=active_power_w(chosen),
        inferences_per_charge=inferences_per_charge(chosen, device) if chosen.ms > 0 else None,
        tokens_per_s=token_rate(statistics, model.config, chosen, device) if language else None,
        sustained=sustained,
        units=units,
        latency_interval=chosen.interval,
        runtime=runtime,
        not_on_npu=outside(statistics, runtime) if chosen.unit.kind == "npu" else {},
        predicted_by=_predicted_by(statistics, chosen, device),
        unknown_operators=list(statistics.unknown_operators),
        unknown_shapes=list(statistics.shapes.unknown),
        layers=_layer_costs(chosen),
    )


def _latency(
    statistics: Statistics,
    device: Device,
    choice: UnitChoice,
    threads: int,
    runtime: Runtime,
    counts: Sequence[Counted] | None,
) -> tuple[LatencyPrediction, list[UnitLatency]]:
    """The prediction for the chosen unit, and the latency of every unit."""
    found = [(unit, _of_unit(statistics, device, unit, threads, runtime, counts)) for unit in device.units]
    units = [
        UnitLatency(name=unit.name, kind=unit.kind, latency_ms=latency.ms if latency else None)
        for unit, latency in found
    ]
    usable = [latency for unit, latency in found if latency and choice in ("best", unit.kind)]
    if usable:
        return min(usable, key=lambda latency: latency.ms), units
    kinds = sorted({unit.kind for unit, latency in found if latency})
    advice = f"For this model choose from: {', '.join([*kinds, 'best'])}."
    if choice not in get_args(UnitChoice):
        raise InputError(f"There is no unit '{choice}'.", advice)
    if any(unit.kind == choice for unit in device.units):
        problem = f"The {choice} of {device.name} does not compute in this model's precision."
    else:
        problem = f"{device.name} has no {choice}."
    raise UnitError(problem, advice)


def _of_unit(
    statistics: Statistics,
    device: Device,
    unit: Unit,
    threads: int,
    runtime: Runtime,
    counts: Sequence[Counted] | None,
) -> LatencyPrediction | None:
    prediction = predict(statistics, device, unit, threads)
    return None if prediction is None else refine(prediction, statistics, device, runtime, counts)


def _calibrated(
    chosen: LatencyPrediction,
    path: Path,
    device: Device,
    threads: int,
    runtime: Runtime,
    counts: Sequence[Counted] | None,
) -> LatencyPrediction:
    """The prediction after the measurements in `path`, which are taken to be of the same unit."""
    from openglm.model.auto import AutoModel

    def predicted(name: str) -> LatencyPrediction:
        statistics = analyse(AutoModel.from_pretrained(name).graph)
        found = _of_unit(statistics, device, chosen.unit, threads, runtime, counts)
        if found is None:
            raise InputError(
                f"{name} in {path} does not run on the {chosen.unit.name} of {device.name}.", "Leave it out."
            )
        return found

    return calibrate(path, predicted).apply(chosen)


def _limits(predicted: Predicted, budget: Budget, reading: float) -> list[Limit]:
    statistics, latency, memory = predicted.statistics, predicted.latency, predicted.memory
    size = statistics.file_bytes / 1e6
    bits = 8 * statistics.weight_bytes / statistics.parameters if statistics.parameters else 0
    makers = f"{active_power_w(latency):.1f} W for {latency.ms:.3g} ms"
    slow = "reading the file" if reading > predicted.load_ms / 2 else "the engine's start"
    held = (
        f"weights {(memory.weights + memory.copies) / 1e6:.0f} MB with the engine's copies"
        if memory.copies > memory.activations
        else f"weights {memory.weights / 1e6:.0f} MB"
    )
    rows: list[tuple[Any, float, float | None, str, str]] = [
        ("latency", latency.ms, budget.latency_ms, "ms", _latency_bound(latency)),
        (
            "memory",
            memory.peak / 1e6,
            budget.memory_mb,
            "MB",
            f"{held}, activations {memory.activations / 1e6:.1f} MB, engine {memory.engine / 1e6:.0f} MB",
        ),
        (
            "size",
            size,
            budget.size_mb,
            "MB",
            f"{statistics.parameters / 1e6:.1f} M parameters at {bits:.1f} bits",
        ),
        ("energy", predicted.energy_mj, budget.energy_mj, "mJ", makers),
        ("load", predicted.load_ms, budget.load_ms, "ms", f"mostly {slow}"),
    ]
    return [
        Limit(
            name=name, predicted=value, budget=most, ok=most is None or value <= most, unit=unit, bound=bound
        )
        for name, value, most, unit, bound in rows
    ]


def _rate_limit(sustained: Sustained) -> Limit:
    after, asked = sustained.throttles_after_s, sustained.asked_per_s or 0.0
    if after is not None:
        bound = f"heat: it throttles after {after / 60:.1f} min, at {sustained.power_w:.1f} W on average"
    elif sustained.held:
        bound = f"the latency; it does not throttle in {sustained.duration_s / 60:.3g} min"
    else:
        bound = "the latency, even while cool"
    return Limit(
        name="rate",
        predicted=sustained.most_per_s,
        budget=asked,
        ok=sustained.held,
        unit="/s",
        bound=bound,
    )


def _fast_enough(budget: Budget, sustained: Sustained) -> Budget:
    """The budget with the latency at which the rate would be held; the rate goes with one over latency."""
    if sustained.held or not sustained.asked_per_s:
        return budget
    needed = sustained.start_ms * sustained.most_per_s / sustained.asked_per_s
    return budget.model_copy(update={"latency_ms": min(needed, budget.latency_ms or needed)})


def _latency_bound(latency: LatencyPrediction) -> str:
    """Which resource, and which kind of operator, takes most of the time."""
    if latency.ms <= 0 or not latency.layers:
        return "nothing to compute"
    words = {"compute": "arithmetic", "memory": "memory bandwidth", "overhead": "starting operators"}
    spent: dict[str, float] = {}
    for item in latency.layers:
        spent[item.layer.op_type] = spent.get(item.layer.op_type, 0.0) + item.ms
    worst = max(spent, key=lambda op_type: spent[op_type])
    share = latency.shares[latency.bound]
    return f"{words[latency.bound]} for {share:.0%} of it; {worst} takes {spent[worst] / latency.ms:.0%}"


def _predicted_by(statistics: Statistics, latency: LatencyPrediction, device: Device) -> str:
    text = f"predicted for {device.name} ({latency.unit.name}) by {latency.basis}"
    gaps = len(statistics.shapes.unknown)
    if gaps:
        text += f"; a lower bound, as {gaps} tensors have no size that can be known beforehand"
    return text


def _layer_costs(latency: LatencyPrediction) -> list[LayerCost]:
    return [
        LayerCost(
            name=item.layer.name,
            op_type=item.layer.op_type,
            ms=item.ms,
            bound=item.bound,
            macs=item.layer.macs,
            weight_bytes=item.layer.weight_bytes,
            precision=item.layer.precision,
            shape=item.layer.shape,
        )
        for item in latency.layers
    ]
