"""Programs within programs: a pass that leaves the model whole in one segment lets another work on that.

So a branch's deep model, or that of a cascade, may have exits, and texts that were cut to their own length
may lose tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Program, Segment
from openglm.dynamic.program import ProgramRunner
from openglm.dynamic.samples import Labelled, row_by_row
from openglm.model.extra_outputs import plain
from openglm.model.tensor import specs
from openglm.passes.contract import Context, Draft, ProgramPass
from openglm.passes.structure.segments import loaded
from openglm.runtimes.engine import Runs
from openglm.runtimes.onnxruntime import NAME


def nested(steps: Sequence[ProgramPass], graph: ir.Model, context: Context) -> Draft:
    """The program of these passes, each but the first working on the segment that the one before leaves
    whole.

    Each sets its gates on samples of its own, of those that come as far: what it may cost, it costs of
    them at most, so that all together cost no more than the sum. Where none comes as far, the passes that
    follow are left out, and a note says so.
    """
    count = sum(step.sets_gates for step in steps)
    found: Draft | None = None
    for number, step in enumerate(steps):
        labelled = context.labelled
        if labelled is not None and step.sets_gates and len(steps) > 1:
            before = sum(earlier.sets_gates for earlier in steps[:number])
            labelled = partial(_asked, labelled, found, before, count)
            if found is not None and next(iter(labelled()), None) is None:
                note = f"No sample comes as far as the model itself, so {step.scheme} is left out."
                return replace(found, notes=(*found.notes, note))
        draft = step.apply(plain(graph) if step.leaves_whole else graph, replace(context, labelled=labelled))
        found = draft if found is None else spliced(found, draft)
    assert found is not None
    return found


def _asked(
    labelled: Callable[[], Iterable[Labelled]], before: Draft | None, place: int, count: int
) -> Iterator[Labelled]:
    """What one of several passes sets its gates on."""
    rows = islice(labelled(), place, None, count)
    return rows if before is None else reaching(before, rows)


def reaching(draft: Draft, rows: Iterable[Labelled]) -> Iterator[Labelled]:
    """The rows, one at a time, that come to the segment that a program leaves whole."""
    assert draft.whole is not None
    outputs = specs(draft.graphs[draft.whole].graph.outputs)
    whole = _Whole([spec.name for spec in outputs])
    others = {name: graph for name, graph in draft.graphs.items() if name != draft.whole}
    runners: dict[str, Runs] = {draft.whole: whole, **dict(zip(others, loaded(others.values()), strict=True))}
    runner = ProgramRunner(draft.program, outputs, lambda segment: runners[segment.name])
    for inputs, label in row_by_row(rows):
        whole.reached = False
        runner.run(inputs)
        if whole.reached:
            yield inputs, label


class _Whole:
    """What stands for the segment that is left whole: it does not run, and tells that it would."""

    def __init__(self, outputs: Sequence[str]) -> None:
        self._outputs = outputs
        self.inputs: list[str] = []
        self.reached = False

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.reached = True
        return {name: np.zeros((1, 1), np.float32) for name in self._outputs}


def spliced(outer: Draft, inner: Draft) -> Draft:
    """A program in which another stands for the segment that was left whole; its nodes and files get the
    segment's name in front."""
    (place,) = (segment for segment in outer.program.segments if segment.name == outer.whole)

    def called(name: str | None) -> str | None:
        return place.next if name is None else f"{place.name}_{name}"

    def led(name: str | None) -> str | None:
        return called(inner.program.first) if name == place.name else name

    segments = [
        segment.model_copy(update={"next": led(segment.next)})
        for segment in outer.program.segments
        if segment is not place
    ]
    segments += [
        Segment(
            name=f"{place.name}_{segment.name}",
            models={NAME: f"{place.name}_{segment.models[NAME]}"},
            outputs=segment.outputs,
            work=round(segment.work * place.work, 6),
            next=called(segment.next),
        )
        for segment in inner.program.segments
    ]
    gates = [gate.model_copy(update={"routes": tuple(map(led, gate.routes))}) for gate in outer.program.gates]
    gates += [
        gate.model_copy(
            update={"name": f"{place.name}_{gate.name}", "routes": tuple(map(called, gate.routes))}
        )
        for gate in inner.program.gates
    ]
    graphs = {name: graph for name, graph in outer.graphs.items() if name != place.name}
    graphs |= {f"{place.name}_{name}": graph for name, graph in inner.graphs.items()}
    return Draft(
        Program(segments=tuple(segments), gates=tuple(gates), start=led(outer.program.first)),
        graphs,
        (*outer.notes, *inner.notes),
        max((each.small for each in (outer, inner) if each.small is not None), default=None),
        None if inner.whole is None else called(inner.whole),
    )
