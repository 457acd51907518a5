"""What a gate costs: the time of one decision on the host, beside that of the segments of a program.

    python benchmarks/gates.py

The program is made of open-autoglm-base (`pip install zoo/open-autoglm-base`), int8, with gates at exits
and where tokens are dropped. Sentences go through it one at a time; gates that the program does
not have are measured on the same answers. A decision is timed as it comes: right behind a segment, which
has left nothing of it in the processor's cache. Last, the program with every gate closed is run in turn
with the graph uncut, and with that which computes exits and the importance of tokens as well: what
cutting alone costs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import tables
from openglm import AutoModel
from openglm.bundle.manifest import Program
from openglm.data.text import calibration_text
from openglm.dynamic.chain import WHOLE
from openglm.dynamic.cutting import EXIT, IMPORTANCE
from openglm.dynamic.gates.confidence import Confidence
from openglm.dynamic.gates.entropy import Entropy
from openglm.dynamic.gates.gate import GateConfig, State, parse
from openglm.dynamic.gates.learned import Learned
from openglm.dynamic.gates.length import Length
from openglm.dynamic.gates.patience import Patience
from openglm.dynamic.gates.size import Size
from openglm.dynamic.gates.wake import Wake
from openglm.dynamic.program import open_program
from openglm.dynamic.samples import Samples
from openglm.model.extra_outputs import NAMED, plain
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.contract import Context
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fuse import Fuse
from openglm.passes.program import Gates, ProgramOfExits, drafted
from openglm.passes.structure.segments import Cuts
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import NAME, Runner

SENTENCES = 40
SETTING, MAX_DROP = 1000, 0.1
"""On so many sentences gates are set, to change at most this share of the answers."""
CALLS = 20
"""Decisions a round."""
ANSWER = "logits"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = measured(Path(folder), given.rounds)
    versions = {name: version(name) for name in ("onnxruntime", "numpy")}
    tables.publish("gates", text, given, versions, f"Medians of {given.rounds} rounds.")
    return 0


def measured(folder: Path, rounds: int) -> str:
    """The table, and what is said of it."""
    model = AutoModel.from_pretrained("open-autoglm-base")
    processor = model.processor
    assert processor is not None
    word = next(iter(model.config["openglm_tasks"].values()))
    inputs = [
        processor([{"text": f"{word} {sample.inputs['text']}"}])
        for sample in islice(calibration_text(), SENTENCES)
    ]
    graph: ir.Model = model.graph
    for step in (Fuse(), DynamicInt8()):
        graph = step.apply(graph, Context()).graph
    texts = model.stand_ins
    assert texts is not None
    samples = Samples.of((processor([sample.inputs]), None) for sample in islice(texts(), SETTING))
    probe = max(samples.inputs, key=lambda batch: batch["input_ids"].size)
    cuts = Cuts.of(graph)
    gates, cut = ProgramOfExits(max_drop=MAX_DROP).settle(graph, cuts, samples, probe)
    draft = drafted(graph, cuts, gates, probe, cut)
    for segment in draft.program.segments:
        onnx_file.write(draft.graphs[segment.name], folder / segment.models[NAME])
    onnx_file.write(plain(graph), folder / "whole.onnx")
    onnx_file.write(_with_outputs(graph, gates), folder / "outputs.onnx")
    states = _states(draft.program, folder, inputs)
    segments = _segments(draft.program, folder, states)
    calls = {name: measure.running(runner, given) for name, (runner, given) in segments.items()}
    taken = {
        name: found * 1e3 / len(inputs) for name, found in measure.interleaved(calls, rounds=rounds).items()
    }
    runner, given = segments[draft.program.first]
    taken |= _decided(_gates(draft.program, states), measure.running(runner, given[:1]), rounds)
    rows = []
    for name in (*draft.program.order, *(name for name in taken if name not in draft.program.order)):
        each = measure.summary(taken[name])
        spread = f"{each.p10_ms:.0f}-{each.p90_ms:.0f}"
        rows.append([_called(draft.program, name), f"{each.median_ms:.0f}", spread])
    return (
        tables.markdown(["what", "µs", "p10-p90"], rows, 1)
        + "\n\n"
        + _uncut(draft.program, folder, inputs, rounds)
    )


def _states(program: Program, folder: Path, inputs: list[State]) -> dict[str, list[State]]:
    """What is known at each node, for every sentence that does not leave, no token dropped."""
    runners = {segment.name: Runner(folder / segment.models[NAME], threads=1) for segment in program.segments}
    found: dict[str, list[State]] = {name: [] for name in program.order}
    for given in inputs:
        state = dict(given)
        for name in program.order:
            found[name].append(state)
            if name in runners:
                state = state | runners[name].run({key: state[key] for key in runners[name].inputs})
    return found


def _segments(
    program: Program, folder: Path, states: dict[str, list[State]]
) -> dict[str, tuple[Runner, list[State]]]:
    """Each segment, and what it takes of all sentences."""
    found = {}
    for segment in program.segments:
        runner = Runner(folder / segment.models[NAME], threads=1)
        found[segment.name] = (
            runner,
            [{key: state[key] for key in runner.inputs} for state in states[segment.name]],
        )
    return found


def _gates(program: Program, states: dict[str, list[State]]) -> dict[str, tuple[GateConfig, State]]:
    """The program's gates by name, and one of each kind for an answer or inputs, with what they see."""
    own = {gate.name: (parse(gate), states[gate.name][0]) for gate in program.gates}
    state = next(given[0] for given in states.values() if ANSWER in given[0])
    every: tuple[GateConfig, ...] = (
        Confidence(threshold=0.9),
        Entropy(threshold=0.3),
        Learned(weights=(1.0, 0.0, 0.0), bias=0.0, threshold=0.9),
        Patience(patience=2),
        Wake(classes=(1,), threshold=0.5),
        Length(buckets=(16, 32, 64), cut=("input_ids", "attention_mask")),
        Size(input="input_ids", axes=(1,), limit=32),
    )
    return own | {f"gate: {gate.kind}": (gate, state) for gate in every}


def _decided(
    gates: dict[str, tuple[GateConfig, State]], segment: Callable[[], None], rounds: int
) -> dict[str, np.ndarray]:
    """Microseconds of a decision, the median of each round, (rounds,); a segment runs before each."""
    found: dict[str, list[float]] = {name: [] for name in gates}
    for _ in range(rounds):
        for name, (gate, state) in gates.items():
            spent = []
            for _ in range(CALLS):
                given = dict(state)
                segment()
                begin = time.perf_counter()
                gate.split(given)
                spent.append(time.perf_counter() - begin)
            found[name].append(float(np.median(spent)) * 1e6)
    return {name: np.array(taken) for name, taken in found.items()}


def _called(program: Program, name: str) -> str:
    """A node as the table calls it."""
    gate = next((gate for gate in program.gates if gate.name == name), None)
    if gate is None:
        return name
    before = next(segment.name for segment in program.segments if segment.next == name)
    return f"gate: {gate.kind}, after {before}"


def _with_outputs(graph: ir.Model, gates: Gates) -> ir.Model:
    """The graph with the outputs that these gates go by."""
    every = json.loads(graph.metadata_props[NAMED])
    asked = {f"{EXIT}{number}" for number in gates.exits}
    asked |= {name for name in every if gates.lengths != WHOLE and name.startswith(IMPORTANCE)}
    found = graph.clone()
    found.metadata_props[NAMED] = json.dumps([name for name in every if name not in asked])
    return plain(found)


def _uncut(program: Program, folder: Path, inputs: list[State], rounds: int) -> str:
    """The program in which nothing leaves and no token goes, in turn with the whole graph, and with that
    which gives what the gates go by."""
    closed = program.model_copy(update={"gates": tuple(_closed(program))})
    outputs = specs(onnx_file.read(folder / "whole.onnx").graph.outputs)
    whole = Runner(folder / "whole.onnx", threads=1)
    times = measure.interleaved(
        {
            "whole": measure.running(whole, inputs),
            "outputs": measure.running(Runner(folder / "outputs.onnx", threads=1), inputs),
            "closed": measure.running(open_program(closed, outputs, folder, threads=1), inputs),
            "program": measure.running(open_program(program, outputs, folder, threads=1), inputs),
        },
        rounds=rounds,
    )
    each = {name: np.median(taken) / len(inputs) for name, taken in times.items()}
    cuts = len(program.segments) - 1
    extra, given = (
        1e3 * float(np.median(times[name] - times["whole"])) / len(inputs) for name in ("closed", "outputs")
    )
    return (
        f"The whole graph takes {each['whole']:.2f} ms a sentence. Cut at {cuts} places, with every gate "
        f"closed, it takes {extra:+.0f} µs, {extra / cuts:+.0f} a cut; that is "
        f"{extra / 10 / each['whole']:+.1f} %. Of that its exits and the importance of tokens, which the "
        f"gates go by, take {given:+.0f} µs uncut. With the gates as they were set it takes "
        f"{each['program']:.2f} ms."
    )


def _closed(program: Program) -> Iterator[Any]:
    for gate in program.gates:
        if gate.kind == "tokens":
            yield gate.model_copy(update={"settings": {**gate.settings, "share": 1.0}})
        else:
            yield gate.model_copy(update={"routes": (gate.routes[-1],) * len(gate.routes)})


if __name__ == "__main__":
    sys.exit(main())
