"""Dynamic inference on four tasks of GLUE: exits and token pruning, beside static students of the same speed.

    python benchmarks/dynamic_text.py --data ../shared/data/glue

The model is the one that `zoo/make.py` trains, before its weights are rounded: fine-tuned on all four
tasks together, then given exits, and taught to do with fewer tokens. From it come programs: with exits
alone, with token pruning alone, with both in int8. A static student is what the fine-tuned model becomes
when layers are left out and it learns from the whole one for as many steps as the exits did. Gates are set
on rows that were held out of training; dev sets only judge. Everything runs in ONNX Runtime on one thread, a
row at a time at its own length, all models in turn in every round.

What zoo/make.py trains, and the students, are kept in build/zoo. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import tables

sys.path.insert(0, str(Path(__file__).parent.parent / "zoo"))

import make
import tasks

from openglm import AutoModel, Model
from openglm.dynamic.program import PROGRAM_FILE, ProgramRunner, model_files, open_file
from openglm.dynamic.samples import Samples
from openglm.glue.scores import mean, scores
from openglm.glue.tasks import TASKS
from openglm.model.extra_outputs import plain
from openglm.model.sources import onnx_file
from openglm.model.tensor import specs
from openglm.passes.contract import Context
from openglm.passes.distil import Distil
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fuse import Fuse
from openglm.passes.layers import LayerPruning
from openglm.passes.program import ProgramOfExits, drafted
from openglm.passes.structure.segments import Cuts
from openglm.runtimes import measure
from openglm.runtimes.onnxruntime import Runner
from openglm.search.trial import write_draft

FOLDER = make.WORK / "dynamic"
DROP = 0.02
"""What gates may cost, of accuracy."""
LONG = 64
"""Tokens beyond which a row is long."""
TIMED = 40
"""Rows of each task that a round runs, from all over its dev data."""
STUDENTS = (4,)
"""Layers that static students keep."""
TARGETS = (
    ("exits", "fp32", "all", 1.6, 0.5),
    ("tokens", "fp32", "long", 1.9, 1.0),
    ("both, int8", "fp32", "all", 6.0, 1.0),
)
"""(model, beside which, on which rows, how many times its speed, at how many points less on average)."""


@dataclass(frozen=True)
class Entrant:
    """A model that takes part."""

    name: str
    path: Path
    static: bool

    def open(self) -> Runner | ProgramRunner:
        return open_file(self.path, threads=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with GLUE's folders")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    text, met = compared(list(entrants(given.data)), given.data, given.rounds)
    versions = {name: version(name) for name in ("onnxruntime", "torch")}
    tables.publish("dynamic text", text, given, versions, f"Medians of {given.rounds} interleaved rounds.")
    return 0 if met else 1


def entrants(data: Path) -> Iterator[Entrant]:
    """All models, made where they are not there."""
    folder = make.finetuned(data)
    whole = AutoModel.from_pretrained(folder)
    yield _static("fp32", whole, int8=False)
    yield _static("int8", whole, int8=True)
    model = make.with_exits(folder, data)
    for name, kinds, int8 in (("exits", "e", False), ("tokens", "t", False), ("both, int8", "et", True)):
        yield _program(name, model, data, kinds, int8=int8)
    for layers in STUDENTS:
        student = _student(whole, layers, data)
        yield _static(f"{layers} layers", student, int8=False)
        yield _static(f"{layers} layers, int8", student, int8=True)


def _graph(model: Model, int8: bool) -> ir.Model:
    graph: ir.Model = model.graph
    for step in (Fuse(), DynamicInt8()) if int8 else (Fuse(),):
        graph = step.apply(graph, Context()).graph
    return graph


def _static(name: str, model: Model, *, int8: bool) -> Entrant:
    path = FOLDER / f"{name.replace(', ', '-').replace(' ', '-')}.onnx"
    if not path.is_file():
        onnx_file.write(plain(_graph(model, int8)), path)
    return Entrant(name, path, static=True)


def _program(name: str, model: Model, data: Path, kinds: str, *, int8: bool) -> Entrant:
    folder = FOLDER / name.replace(", ", "-")
    path = folder / PROGRAM_FILE
    if not path.is_file():
        folder.mkdir(exist_ok=True)
        graph = _graph(model, int8)
        cuts = Cuts.of(graph)
        cuts = replace(cuts, points=tuple(point for point in cuts.points if point.kind[0] in kinds))
        samples = _held_out(model, data)
        probe = max(samples.inputs, key=lambda batch: batch["input_ids"].size)
        gates, segments = ProgramOfExits(max_drop=DROP).settle(graph, cuts, samples, probe)
        print(name, *gates.notes, sep="\n  ", flush=True)
        outputs = specs(plain(graph).graph.outputs)
        write_draft(drafted(graph, cuts, gates, probe, segments), outputs, folder)
    return Entrant(name, path, static=False)


def _held_out(model: Model, data: Path) -> Samples:
    """The rows that gates are set on, with the answers that are right."""
    processor = model.processor
    assert processor is not None
    held = tasks.held_out(data)
    return Samples.of((processor([sample.inputs]), float(sample.label or 0)) for sample in held)


def _student(whole: Model, layers: int, data: Path) -> Model:
    context = make.context_of(whole, data, FOLDER / f"student-{layers}")
    model = LayerPruning(keep=layers).apply(whole, context).model
    return (
        Distil(steps=make.STEPS, learning_rate=make.RATE, alpha=1.0, seed=tasks.SEED)
        .apply(model, context)
        .model
    )


@dataclass(frozen=True)
class Row:
    """An entrant, judged and measured."""

    entrant: Entrant
    figures: dict[str, float]
    """By task."""
    times: dict[str, np.ndarray]
    """Milliseconds of a row, on "all" and on "long" ones, round by round."""
    work: float | None
    """A program's share of the whole model's work, over dev."""

    @property
    def average(self) -> float:
        return 100 * sum(self.figures.values()) / len(self.figures)

    def ratio(self, other: Row, rows: str) -> float:
        """How many times faster than another."""
        return measure.speedup(other.times[rows], self.times[rows])


def compared(found: list[Entrant], data: Path, rounds: int) -> tuple[str, bool]:
    """The table and what it shows, and whether every target is met."""
    dev = {task: tasks.rows(data, task, dev=True) for task in tasks.WORDS}
    processor = AutoModel.from_pretrained(make.finetuned(data)).processor
    assert processor is not None
    inputs = {task: [processor([row.inputs]) for row in rows] for task, rows in dev.items()}
    every = [batch for task in inputs for batch in _spread(inputs[task], TIMED)]
    long = [batch for task in inputs for batch in inputs[task] if batch["input_ids"].shape[1] > LONG]
    timed = {"all": every, "long": _spread(long, TIMED)}
    runners = {entrant.name: entrant.open() for entrant in found}
    judged = {entrant.name: _judged(entrant, runners[entrant.name], dev, inputs) for entrant in found}
    times = {
        kind: measure.interleaved(
            {entrant.name: measure.running(runners[entrant.name], batches) for entrant in found},
            rounds=rounds,
        )
        for kind, batches in timed.items()
    }
    rows = {
        entrant.name: Row(
            entrant,
            judged[entrant.name][0],
            {kind: times[kind][entrant.name] / len(timed[kind]) for kind in timed},
            judged[entrant.name][1],
        )
        for entrant in found
    }
    lines, met = _targets(rows)
    return f"{_table(rows)}\n\n" + "\n".join(f"- {line}" for line in lines), met


def _spread(items: list[Any], count: int) -> list[Any]:
    return [items[int(place * len(items) / count)] for place in range(min(count, len(items)))]


def _judged(
    entrant: Entrant,
    runner: Runner | ProgramRunner,
    dev: dict[str, list[tasks.Row]],
    inputs: dict[str, list[Any]],
) -> tuple[dict[str, float], float | None]:
    figures, work = {}, []
    for name, rows in dev.items():
        task = TASKS[name]
        least, most = task.bounds if task.classes is None else (0.0, 1.0)
        answers = []
        for batch in inputs[name]:
            if isinstance(runner, ProgramRunner):
                outputs, trace = runner.traced(batch)
                work.append(trace.work)
            else:
                outputs = runner.run(batch)
            answers.append(outputs["logits"][0])
        said = np.stack(answers)
        labels = [least + (most - least) * row.target for row in rows]
        if task.classes is None:
            said = 1 / (1 + np.exp(said[:, :1] - said[:, 1:]))
        else:
            labels = [int(label) for label in labels]
        figures[name] = mean(scores(task, {"": said}, {"": labels}))
    print(f"judged: {entrant.name}", flush=True)
    return figures, float(np.mean(work)) if work else None


def _table(rows: dict[str, Row]) -> str:
    base = rows["fp32"]
    header = ["model", "MB", "work", "ms", "x fp32", f"ms, over {LONG} tokens", "x fp32"]
    header += [TASKS[task].name for task in tasks.WORDS] + ["average", "points lost"]
    body = []
    for row in rows.values():
        size = sum(file.stat().st_size for file in model_files(row.entrant.path)) / 1e6
        cells = [row.entrant.name, f"{size:.1f}", "" if row.work is None else f"{row.work:.0%}"]
        for kind in ("all", "long"):
            cells += [f"{np.median(row.times[kind]):.2f}", f"{row.ratio(base, kind):.2f}"]
        cells += [f"{100 * row.figures[task]:.1f}" for task in tasks.WORDS]
        cells += [f"{row.average:.2f}", f"{base.average - row.average:+.2f}"]
        body.append(cells)
    return tables.markdown(header, body, 1)


def _targets(rows: dict[str, Row]) -> tuple[list[str], bool]:
    lines, every = [], True
    for name, beside, kind, speed, points in TARGETS:
        row, base = rows[name], rows[beside]
        faster, lost = row.ratio(base, kind), base.average - row.average
        met = faster >= speed and lost <= points
        every &= met
        lines.append(
            f"{_word(met)}: {name}: at least {speed:g}x {beside} on {kind} rows at no more than {points:g} "
            f"points less on average: {faster:.2f}x, {lost:+.2f} points"
        )
        student = _student_of_speed(rows, row, kind)
        ahead = row.average - student
        every &= ahead > 0
        lines.append(
            f"{_word(ahead > 0)}: {name}: ahead of a static student of its speed, whose average would be "
            f"{student:.2f}: {ahead:+.2f} points"
        )
    return lines, every


def _word(met: bool) -> str:
    return "PASS" if met else "MISS"


def _student_of_speed(rows: dict[str, Row], dynamic: Row, kind: str) -> float:
    """The average of a static model that takes as long, between those measured, of the same precision; of
    the nearest where it is beyond them."""
    int8 = "int8" in dynamic.entrant.name
    static = [row for row in rows.values() if row.entrant.static and ("int8" in row.entrant.name) == int8]
    points = sorted((float(np.median(row.times[kind])), row.average) for row in static)
    return float(np.interp(np.median(dynamic.times[kind]), *zip(*points, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
