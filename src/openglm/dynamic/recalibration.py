"""Sets a program's thresholds again, on new data: the segments stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from openglm.bundle.manifest import Gate, Program, Segment
from openglm.dynamic.chain import Chain
from openglm.dynamic.gates.gate import AnswerGate, GateConfig, parse
from openglm.dynamic.gates.tokens import Tokens
from openglm.dynamic.gates.wake import Wake, wanted_rows
from openglm.dynamic.leaving import Kind, settle
from openglm.dynamic.program import ProgramRunner
from openglm.dynamic.samples import Samples
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec
from openglm.runtimes.engine import Runs


class Standing(NamedTuple):
    """What a program does on samples."""

    work: float
    """The mean share of the whole model's work."""
    drop: float
    """The mean loss beyond the whole model's."""


@dataclass(frozen=True)
class Recalibrated:
    """A program whose thresholds were set again."""

    program: Program
    before: Standing
    """With the thresholds it had, on the new data."""
    after: Standing
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    """A segment, and the gate behind it."""

    segment: Segment
    gate: Gate | None
    config: GateConfig | None


def recalibrate(
    program: Program,
    outputs: Sequence[TensorSpec],
    load: Callable[[Segment], Runs],
    samples: Samples,
    *,
    max_drop: float,
    certainty: float,
    false_rejects: float,
) -> Recalibrated:
    """The program with the thresholds that `samples` allow.

    What its gates cost in the mean is at most `max_drop`, with `certainty`. A gate that wakes misses at most
    `false_rejects` of the samples it is for. Where nothing can be shown to cost so little, the whole model
    answers. Raises `InputError` for a program that has no thresholds, or whose inputs go by something else,
    too.
    """
    steps = _straight(program)
    loaded = {step.segment.name: load(step.segment) for step in steps}
    tokens = {place: step.config for place, step in enumerate(steps) if isinstance(step.config, Tokens)}
    leave = {place: step.config for place, step in enumerate(steps) if isinstance(step.config, AnswerGate)}
    if not tokens and not leave:
        raise InputError(
            "The bundle's program has no thresholds to set.",
            "Give one with exits, a cascade or token pruning.",
        )
    answer = next(iter(leave.values())).output if leave else steps[-1].segment.outputs[0].name
    work = [step.segment.work for step in steps]
    runners = [loaded[step.segment.name] for step in steps]
    chain = Chain(runners, work, frozenset(leave), tokens, answer)
    places, notes, made = list(leave), [], dict[str, Gate]()
    first = leave[places[0]] if leave else None
    if isinstance(first, Wake):
        if len(leave) > 1:
            raise InputError(
                "The bundle's program wakes a model that has exits of its own.",
                "Make the bundle again where its gates are to change.",
            )
        whole = chain.way(samples)
        wanted = wanted_rows(samples, first.classes)
        wake = first.set_by(whole.answers[0], wanted, false_rejects)
        _set(made, steps[places[0]], wake)
        notes.append(wake.told(whole.answers[0], wanted))
    else:
        ways = list(chain.ways(samples, max_drop))
        whole = ways[0]
        kind = None if first is None else cast("Kind", first.kind)
        settled = settle(kind, ways, answer, samples, max_drop, certainty)
        for place, gate in zip(places, settled.gates, strict=True):
            _set(made, steps[place], gate)
        for place, config in tokens.items():
            _set(made, steps[place], settled.lengths.set(config))
        numbers = [number for number, _ in enumerate(places, 1)]
        notes += settled.told(numbers, bool(tokens), samples, max_drop, certainty)
    gates = tuple(made.get(gate.name, gate) for gate in program.gates)
    new = program.model_copy(update={"gates": gates})

    def standing(which: Program) -> Standing:
        runner = ProgramRunner(which, outputs, lambda segment: loaded[segment.name])
        return _standing(runner, samples, answer, whole.answers[-1])

    return Recalibrated(new, standing(program), standing(new), tuple(notes))


def _straight(program: Program) -> list[_Step]:
    """The segments in the order of a row that never leaves."""
    segments = {segment.name: segment for segment in program.segments}
    gates = {gate.name: gate for gate in program.gates}
    steps: list[_Step] = []
    name: str | None = program.first
    while name is not None:
        gate, config = None, None
        if name in segments:
            segment = segments[name]
            name = segment.next
            if name in gates:
                gate = gates[name]
                config = parse(gate)
                name = gate.routes[-1]
            steps.append(_Step(segment, gate, config))
            continue
        gate = gates[name]
        if len(set(gate.routes)) > 1:
            raise InputError(
                f"The gate '{gate.name}' of the bundle's program goes by {gate.kind}, not by a threshold on "
                "answers.",
                "Make the bundle again where that is to change.",
            )
        name = gate.routes[0]  # it cuts inputs to their own length, as samples are
    return steps


def _set(made: dict[str, Gate], step: _Step, config: GateConfig | None) -> None:
    """Put a gate's new settings down; where it has none, nobody leaves there."""
    gate = step.gate
    assert gate is not None
    onward = gate.routes[-1]
    if config is None:
        made[gate.name] = gate.model_copy(update={"routes": (onward,) * len(gate.routes)})
        return
    routes = (None, onward) if len(gate.routes) > 1 else (onward,)
    made[gate.name] = gate.model_copy(update={"settings": config.model_dump(mode="json"), "routes": routes})


def _standing(runner: ProgramRunner, samples: Samples, answer: str, end: np.ndarray) -> Standing:
    said, work = [], []
    for sample in samples.inputs:
        found, trace = runner.traced(sample)
        said.append(found[answer].reshape(len(found[answer]), -1))
        work.append(trace.work)
    excess = samples.losses(np.concatenate(said), end) - samples.losses(end, end)
    return Standing(float(np.mean(work)), float(excess.mean()))
