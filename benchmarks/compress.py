"""What the compression benchmarks share: entrants, how they are judged and run, targets and tables."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import openglm
import tables
from openglm.model.processors.processor import Processor
from openglm.runtimes import measure
from openglm.search.result import Result
from openglm.search.trial import Trial
from peers import Batch
from quantize_case import Candidate, Judgement, chance

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks"
DEVICE = "mid-range-a76"
"""What a search fits to; without a budget it decides nothing here."""
MAX_DROP = 0.01
DROPS = (0.01, 0.02)
"""Losses that our searches allow: what the first chooses counts, the second fills the front."""
FRONT = (0.005, 0.01, 0.02)
"""Losses for which the fastest model of a search is shown."""
LEAD = 1.5
"""How many times faster than the best peer ours shall be."""
ANSWER_S, FIRST_S = 1200.0, 120.0
"""When a search shall have ended, and when its first acceptable candidate shall be there."""


@dataclass(frozen=True)
class Entrant(Candidate):
    """A model that takes part."""

    processor: Processor | None = None
    """Its own, where it does not take what fp32 takes."""
    counts: bool = False
    """Whether the targets are about it: what the search chose."""

    def digest(self) -> str:
        own = "" if self.processor is None else json.dumps(self.processor.settings(), sort_keys=True)
        return super().digest() + own


@dataclass(frozen=True)
class Case:
    """One model: what it is judged on, and what is asked of ours."""

    title: str
    about: str
    """What is measured, on which data: the text above the table."""
    reported: str
    """What the accuracy is of, such as "dev"."""
    samples: Sequence[Any]
    labels: Sequence[int]
    timed: Sequence[Any]
    """The samples of one round, run one at a time."""
    prepare: Callable[[Any, Processor | None], Batch]
    """A sample as a model's inputs; the second is the model's own processor, where it has one."""
    faster: float
    """How many times faster than fp32 ours shall be."""
    folder: Path
    shapes: Mapping[str, list[int]] | None = None
    """The inputs' shapes, where all are alike."""

    def judged(self, entrant: Entrant) -> Judgement:
        """The accuracy; found once for each model and kept."""
        kept = self.folder / "quality.json"
        known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        key = f"{self.reported} {len(self.samples)} {entrant.digest()}"
        if key not in known:
            print(f"judging: {entrant.name}, {entrant.engine}", flush=True)
            run = entrant.open(self.shapes)
            right = [
                int(np.argmax(run(self.prepare(sample, entrant.processor))[0])) == label
                for sample, label in zip(self.samples, self.labels, strict=True)
            ]
            known[key] = asdict(Judgement(sum(right) / len(right), "".join("01"[item] for item in right)))
            kept.write_text(json.dumps(known, indent=1), encoding="utf-8")
        return Judgement(**known[key])

    def round(self, entrant: Entrant) -> Callable[[], None]:
        """A call that runs the entrant over `timed`."""
        run = entrant.open(self.shapes)
        batches = [self.prepare(sample, entrant.processor) for sample in self.timed]

        def all_of_them() -> None:
            for batch in batches:
                run(batch)

        return all_of_them


@dataclass(frozen=True)
class Row:
    """An entrant, measured."""

    entrant: Entrant
    times: np.ndarray
    """Milliseconds of a sample, (rounds,)."""
    ratio: float
    """How many times faster than fp32: the median over rounds."""
    judged: Judgement
    loss: float
    error: float
    """The standard error of the loss."""


@dataclass(frozen=True)
class Search:
    """A search that has ended, and when its candidates were there."""

    result: Result
    moments: list[tuple[float, str, str]]
    """(seconds, code, outcome) of each candidate."""

    @property
    def first_s(self) -> float:
        """When the first acceptable candidate was there."""
        accepted = (seconds for seconds, _, outcome in self.moments if outcome == "accepted")
        return next(accepted, float("inf"))

    @property
    def ended_s(self) -> float:
        """When the last candidate was judged."""
        return max((seconds for seconds, _, _ in self.moments), default=float("inf"))


def searched(
    model: Any, folder: Path, *, fresh: bool, seconds: float, max_drop: float, **given: Any
) -> Search:
    """Our search, in a folder that keeps it: one that has ended there is only read again."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "moments.jsonl"

    def note(progress: Any) -> None:
        if progress.finished is None:
            return
        found = progress.finished.candidate
        print(f"{progress.done:7.1f} s  {found.outcome:8} {found.code}: {found.reason}", flush=True)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps([round(progress.done, 1), found.code, found.outcome]) + "\n")

    print(f"searching: {folder.name}, at most {seconds:.0f} s", flush=True)
    result = openglm.optimize(
        model, DEVICE, folder=folder / "study", max_drop=max_drop, time_limit_s=seconds, threads=1,
        metric="accuracy", progress=note, **given,
    )  # fmt: skip
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    return Search(result, [tuple(json.loads(line)) for line in lines])


def ours(searches: Sequence[Search], case: Case, fp32: Entrant) -> list[Entrant]:
    """What the first search chose, and of what all searches accepted the fastest for each of `FRONT`."""
    chosen = searches[0].result.best.trial
    base = case.judged(fp32).value
    found: list[tuple[Trial, float]] = []
    for search in searches:
        for trial in search.result.trials:
            if trial.accepted and trial.recipe and trial.path is not None:
                found.append((trial, base - case.judged(_entrant(trial, trial.candidate.code)).value))
    trials = {id(chosen): chosen}
    within: dict[int, list[str]] = {id(chosen): []}
    for limit in FRONT:
        pool = [trial for trial, loss in found if loss <= limit]
        if pool:
            fastest = max(pool, key=lambda trial: trial.candidate.speedup or 0.0)
            trials[id(fastest)] = fastest
            within.setdefault(id(fastest), []).append(f"{100 * limit:g}")
    entrants = []
    for key, trial in trials.items():
        words = ["the search's choice"] if trial is chosen else []
        if within[key]:
            words.append(f"fastest within {' and '.join(within[key])} on {case.reported}")
        name = f"openglm, {', '.join(words)}: {trial.candidate.code}"
        entrants.append(_entrant(trial, name, trial is chosen))
    return entrants


def _entrant(trial: Trial, name: str, counts: bool = False) -> Entrant:
    assert trial.path is not None
    return Entrant(name, "ours", trial.path, processor=trial.processor, counts=counts)


def measured(case: Case, entrants: Sequence[Entrant], rounds: int) -> list[Row]:
    """All entrants, fp32 first, judged and then run in turn."""
    judged = [case.judged(entrant) for entrant in entrants]
    calls = {str(index): case.round(entrant) for index, entrant in enumerate(entrants)}
    print(f"measuring {case.title}: {len(calls)} models, {rounds} rounds", flush=True)
    times = [array / len(case.timed) for array in measure.interleaved(calls, rounds=rounds).values()]
    return [
        Row(
            entrant,
            times[index],
            measure.speedup(times[0], times[index]),
            judged[index],
            judged[0].value - judged[index].value,
            chance(judged[0], judged[index]),
        )
        for index, entrant in enumerate(entrants)
    ]


def targets(rows: Sequence[Row], case: Case, search: Search) -> list[tuple[bool, str]]:
    """Whether each target is met, in words."""
    own = next(row for row in rows if row.entrant.counts)
    points = f"{100 * own.loss:+.2f} points, with a standard error of {100 * own.error:.2f}"
    found = [
        (own.loss <= MAX_DROP, f"the search's choice loses at most 1 point on {case.reported}: {points}"),
        (own.ratio >= case.faster, f"it has at least {case.faster:g}x the speed of fp32: {own.ratio:.2f}x"),
    ]
    equal = [row for row in rows if row.entrant.kind == "peer" and row.loss <= max(MAX_DROP, own.loss)]
    for engine in ("ONNX Runtime", "OpenVINO"):
        there = [row for row in equal if row.entrant.engine == engine]
        if there:
            peer = max(there, key=lambda row: row.ratio)
            lead = measure.speedup(peer.times, own.times)
            words = f"{peer.entrant.name}, {100 * peer.loss:+.2f} points): {lead:.2f}x its speed"
            found.append((lead >= LEAD, f"at least {LEAD:g}x the best peer in {engine} ({words}"))
    ended, first = search.ended_s, search.first_s
    found.append((ended <= ANSWER_S, f"the search ended within {ANSWER_S / 60:g} minutes: {ended / 60:.1f}"))
    found.append((first <= FIRST_S, f"its first acceptable candidate within {FIRST_S:g} s: {first:.0f} s"))
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, the fastest first; ours that counts in bold."""
    header = ["model", "engine", "MB", "ms (p10-p90)", "x fp32", "accuracy", "loss, points"]
    lines = []
    for row in [rows[0], *sorted(rows[1:], key=lambda row: -row.ratio)]:
        low, middle, high = np.percentile(row.times, [10, 50, 90])
        cells = [
            row.entrant.name,
            row.entrant.engine,
            f"{row.entrant.size / 1e6:.2f}",
            f"{middle:.3f} ({low:.3f}-{high:.3f})",
            f"{row.ratio:.2f}",
            f"{row.judged.value:.4f}",
            f"{100 * row.loss:+.2f} ± {100 * row.error:.2f}" if row is not rows[0] else "0",
        ]
        lines.append([f"**{cell}**" for cell in cells] if row.entrant.counts else cells)
    return tables.markdown(header, lines, left=2)


def cost(search: Search) -> str:
    """What the time of a search went into, as Markdown."""
    spent = search.result.spent
    known = {**spent, "the rest: loading, the original, sensitivity": search.ended_s - sum(spent.values())}
    lines = [[kind, f"{s:.0f}", f"{s / search.ended_s:.0%}"] for kind, s in known.items()]
    tried = len(search.moments)
    accepted = sum(outcome == "accepted" for _, _, outcome in search.moments)
    words = f"The search tried {tried} recipes, {accepted} of them acceptable. Its time went into:"
    return f"{words}\n\n{tables.markdown(['what', 's', 'share'], lines, left=1)}"


def record(rows: Sequence[Row], case: Case, search: Search, verdicts: Sequence[tuple[bool, str]]) -> dict:
    """A case as JSON."""
    return {
        "case": case.title,
        "rows": [
            {
                "model": row.entrant.name,
                "engine": row.entrant.engine,
                "kind": row.entrant.kind,
                "size_bytes": row.entrant.size,
                "timing": measure.summary(row.times).model_dump(),
                "speedup": row.ratio,
                "accuracy": row.judged.value,
                "loss": row.loss,
                "standard_error": row.error,
            }
            for row in rows
        ],
        "search": {"spent_s": search.result.spent, "moments": search.moments},
        "targets": [{"met": met, "target": words} for met, words in verdicts],
    }


def options(
    description: str, parts: Sequence[str], needed: Sequence[str], seconds: float
) -> argparse.Namespace:
    """The command line; each of our searches takes `seconds`, if nothing else is said.

    Ends the program where data is missing. Silences what other tools say.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help=f"folder that holds {needed[0]}")
    parser.add_argument("--only", choices=tuple(parts), help="one part of it")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--time", type=float, default=seconds, help="seconds for each of our searches")
    parser.add_argument("--prepare", action="store_true", help="only train networks and make peers' models")
    parser.add_argument("--fresh", action="store_true", help="search anew")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    given = parser.parse_args()
    missing = [path for path in needed if not (given.data / path).is_file()]
    if missing:
        raise SystemExit(f"{given.data} has no {', '.join(missing)}: give the folder that holds them.")
    given.parts = [given.only] if given.only else list(parts)
    logging.disable(logging.WARNING)
    return given


def compared(
    case: Case, entrants: Sequence[Entrant], searches: Sequence[Search], rounds: int
) -> tuple[str, dict]:
    """Measure a case: its text for the docs, without machine and command, and its JSON."""
    rows = measured(case, [entrants[0], *ours(searches, case, entrants[0]), *entrants[1:]], rounds)
    verdicts = targets(rows, case, searches[0])
    lines = "\n".join(f"- {'PASS' if met else 'MISS'}: {words}" for met, words in verdicts)
    text = "\n\n".join([case.about, table(rows), lines, cost(searches[0])])
    return text, record(rows, case, searches[0], verdicts)


def finish(records: Sequence[dict], given: argparse.Namespace) -> int:
    """Write the JSON; the exit status: 1 where a target is missed."""
    if given.json:
        given.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0 if all(item["met"] for entry in records for item in entry.get("targets", [])) else 1
