"""Runs a program: segments on an engine, gates on the host, every row on its own way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from openglm.bundle.manifest import Program, Segment
from openglm.dynamic.gates.gate import AnswerGate, GateConfig, State, finite, parse
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec
from openglm.runtimes.engine import Runs, engine, name_of
from openglm.runtimes.onnxruntime import NAME

PROGRAM_FILE = "program.json"
"""A program beside its segments, where there is no bundle yet."""
_PROGRAM = Path(PROGRAM_FILE).suffix


class Way(NamedTuple):
    """What became of one row."""

    nodes: tuple[str, ...]
    """The segments and gates that it went through, in order."""
    work: float
    """Multiply-accumulates as a share of the whole model's, tokens that were dropped left out."""
    milliseconds: float
    """Wall time, that of a group of rows in equal parts."""


class Trace(NamedTuple):
    """How far each row of a run went, and what it cost."""

    rows: tuple[Way, ...]
    notes: tuple[str, ...]
    """What did not go as planned: a row whose answer at an exit was no number, and went on."""

    @property
    def work(self) -> float:
        """The mean share of the whole model's work."""
        return float(np.mean([row.work for row in self.rows]))


class _Group(NamedTuple):
    """Rows that wait at one node."""

    rows: np.ndarray
    """Their places in the batch, ascending."""
    state: State


class ProgramRunner:
    """A program with its segments loaded. Raises `InputError` for gates that are not valid."""

    def __init__(
        self, program: Program, outputs: Sequence[TensorSpec], load: Callable[[Segment], Runs]
    ) -> None:
        self._program = program
        self._outputs = [spec.name for spec in outputs]
        self._gates: dict[str, GateConfig] = {gate.name: parse(gate) for gate in program.gates}
        self._segments = {segment.name: segment for segment in program.segments}
        self._loaded = {segment.name: load(segment) for segment in program.segments}
        self._after = {name: program.after(name) for name in program.order}
        self._needed = self._needs()

    @property
    def gated(self) -> bool:
        """Whether rows may take different ways."""
        return bool(self._gates)

    @property
    def inputs(self) -> list[str]:
        """What the whole program takes: what the first node needs."""
        return sorted(name for name in self._needed[self._program.first] if "/" not in name)

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for inputs by name, their first axis the rows."""
        if not self._gates and len(self._segments) == 1:
            return next(iter(self._loaded.values())).run(arrays)
        return self._alone(dict(arrays)) if self._rows(arrays) == 1 else self.traced(arrays)[0]

    def _alone(self, state: State) -> dict[str, np.ndarray]:
        """What `traced` gives for a single row, without keeping account: a phone runs one after another, and
        some segments take no longer than the account of them."""
        name: str | None = self._program.first
        while name is not None:
            if (gate := self._gates.get(name)) is None:
                loaded = self._loaded[name]
                state.update(loaded.run({key: state[key] for key in loaded.inputs}))
                (name,) = self._after[name]
            else:
                (passed,) = gate.split(state)
                state = passed.state
                name = self._after[name][passed.route]
        if missing := next((output for output in self._outputs if output not in state), None):
            raise _without(missing)
        return {output: state[output] for output in self._outputs}

    def traced(self, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Trace]:
        """The outputs, and how far each row went.

        Outputs whose rows have several shapes, of inputs that were cut to their own length, are
        filled with zeros at the end. Raises `InputError` for inputs it cannot run on.
        """
        count = self._rows(arrays)
        ways = [Way((), 0.0, 0.0)] * count
        notes: dict[str, None] = {}
        waiting: dict[str | None, list[_Group]] = {
            self._program.first: [_Group(np.arange(count), dict(arrays))]
        }
        shares = np.ones(count)  # of each row's tokens, what gates have left
        for name in self._program.order:
            for rows, state in _merged(waiting.pop(name, [])):
                begin = time.perf_counter()
                work = np.zeros(len(rows))
                if (gate := self._gates.get(name)) is None:
                    segment = self._segments[name]
                    loaded = self._loaded[name]
                    found = loaded.run({key: state[key] for key in loaded.inputs})
                    work = segment.work * shares[rows]
                    onward = [(segment.next, rows, {**state, **found})]
                else:
                    onward = []
                    for route, places, part in gate.split(state):
                        onward.append((self._after[name][route], rows[places], part))
                        shares[rows[places]] *= gate.left(state, part)
                    notes |= dict.fromkeys(_unsure(name, gate, rows, state))
                spent = (time.perf_counter() - begin) * 1e3 / len(rows)
                for row, own in zip(rows, work, strict=True):
                    way = ways[row]
                    ways[row] = Way((*way.nodes, name), way.work + float(own), way.milliseconds + spent)
                for target, there, left in onward:
                    needed = self._needed[target]
                    kept = {key: array for key, array in left.items() if key in needed}
                    waiting.setdefault(target, []).append(_Group(there, kept))
        return self._gathered(waiting[None], count), Trace(tuple(ways), tuple(notes))

    def _rows(self, arrays: Mapping[str, np.ndarray]) -> int:
        counts = {len(array) if array.ndim else 0 for array in arrays.values()}
        if len(counts) != 1 or counts == {0}:
            raise InputError(
                "The inputs have no rows, or not as many each.", "Give every input the same number of rows."
            )
        return counts.pop()

    def _needs(self) -> dict[str | None, set[str]]:
        """The arrays that a node, or one after it, may read."""
        needed: dict[str | None, set[str]] = {None: set(self._outputs)}
        for name in reversed(self._program.order):
            gate = self._gates.get(name)
            own = set(self._loaded[name].inputs if gate is None else gate.reads)
            after = set().union(*(needed[target] for target in self._after[name]))
            made = set() if gate is not None else {spec.name for spec in self._segments[name].outputs}
            needed[name] = own | (after - made)
        return needed

    def _gathered(self, groups: Sequence[_Group], count: int) -> dict[str, np.ndarray]:
        outputs = {}
        for name in self._outputs:
            parts = [(rows, state[name]) for rows, state in groups if name in state]
            if sum(len(rows) for rows, _ in parts) != count:
                raise _without(name)
            dims = {part.ndim for _, part in parts}
            if len(dims) != 1:
                raise InputError(
                    f"The program's output '{name}' has a different number of axes on different ways.",
                    "Make the bundle again.",
                )
            largest = tuple(np.max([part.shape[1:] for _, part in parts], axis=0)) if dims != {1} else ()
            whole = np.zeros((count, *largest), parts[0][1].dtype)
            for rows, part in parts:
                corner: Any = (rows, *(slice(size) for size in part.shape[1:]))
                whole[corner] = part
            outputs[name] = whole
        return outputs


class ProgramFile(BaseModel):
    """The content of a `PROGRAM_FILE`, or that part of a bundle's manifest."""

    program: Program
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def read(cls, path: Path) -> ProgramFile:
        """The content of a file, of which the rest is passed over."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def files_of(program: Program, runtime: str, folder: Path) -> dict[str, Path]:
    """A program's files for an engine in a folder, by segment; raises `InputError` where it has none."""
    name = name_of(runtime)
    for segment in program.segments:
        if name not in segment.models:
            raise InputError(
                f"The bundle has no model for {name}, only for {', '.join(segment.models)}.",
                f"Add one with `openglm export BUNDLE --runtime {name}`.",
            )
    return {segment.name: folder / segment.models[name] for segment in program.segments}


def open_program(
    program: Program,
    outputs: Sequence[TensorSpec],
    folder: Path,
    *,
    threads: int | None = None,
    runtime: str = NAME,
    arena: bool = True,
) -> ProgramRunner:
    """A program with its segments, files of `folder`, loaded in an engine; raises `InputError` where the
    engine does not take one, or is not known, `MissingExtraError` where it is not installed."""
    files, loader = files_of(program, runtime, folder), engine(runtime)
    loader = loader if arena else loader.lean()
    loaded = dict(zip(files, loader.load_each(list(files.values()), threads=threads), strict=True))
    return ProgramRunner(program, outputs, lambda segment: loaded[segment.name])


def open_file(path: Path, *, threads: int | None = None, runtime: str = NAME) -> Runs | ProgramRunner:
    """A model's file, or a program's with its segments, a `PROGRAM_FILE` or a bundle's manifest, loaded;
    raises as `open_program` does."""
    if path.suffix != _PROGRAM:
        return engine(runtime).load(path, threads=threads)
    content = ProgramFile.read(path)
    return open_program(content.program, content.outputs, path.parent, threads=threads, runtime=runtime)


def model_files(path: Path) -> list[Path]:
    """The files of what `open_file` takes: weights in a file of their own are among them."""
    names = [path.name]
    if path.suffix == _PROGRAM:
        names = [
            file for segment in ProgramFile.read(path).program.segments for file in segment.models.values()
        ]
    found = [path.parent / file for name in names for file in (name, f"{name}.data")]
    return [file for file in found if file.is_file()]


def _merged(groups: Sequence[_Group]) -> list[_Group]:
    """Groups whose arrays agree in all but their rows, together, their rows in order."""
    alike: dict[object, list[_Group]] = {}
    for group in groups:
        shape = tuple((name, array.dtype, array.shape[1:]) for name, array in sorted(group.state.items()))
        alike.setdefault(shape, []).append(group)
    merged = []
    for parts in alike.values():
        if len(parts) == 1:
            merged.append(parts[0])
            continue
        rows = np.concatenate([part.rows for part in parts])
        order = np.argsort(rows)
        state = {name: np.concatenate([part.state[name] for part in parts])[order] for name in parts[0].state}
        merged.append(_Group(rows[order], state))
    return merged


def _without(output: str) -> InputError:
    return InputError(f"The program ends without its output '{output}'.", "Make the bundle again.")


def _unsure(name: str, gate: GateConfig, rows: np.ndarray, state: State) -> list[str]:
    """A note for each row whose answer at a gate is no number: such a row goes on to the whole model."""
    if not isinstance(gate, AnswerGate):
        return []
    broken = rows[~finite(state[gate.output])]
    return [f"Row {row} had no number for an answer at '{name}', and went on." for row in broken]
