"""Quantization against the field: speed, size and accuracy of int8 models, ours and other tools'.

    python benchmarks/quantize.py --data ../shared/data

Every tool gets the same fp32 ONNX file. All models of a case are run in turn, round by round, on
one thread, so that a drift of the machine meets all alike. Exits with 1 where a target is missed.

Models, the trained network and accuracies are kept in build/benchmarks; delete it to start anew.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import peers
import tables
from openglm.runtimes import measure
from quantize_case import Candidate, Case, Judgement, chance

FOLDER = Path(__file__).parent.parent / "build" / "benchmarks"
NEEDED = {
    "encoder": ("glue/STS-B/dev.tsv", "glue/STS-B/train.tsv"),
    "conv": ("cifar10-jpeg/train.tar", "cifar10-jpeg/test.tar"),
}
LARGEST = 0.27
"""The share of the fp32 file that ours may have."""


@dataclass(frozen=True)
class Row:
    """A candidate, measured."""

    candidate: Candidate
    times: np.ndarray
    size: float
    """Share of the fp32 file."""
    ratio: float
    """How many times faster than fp32 in ONNX Runtime: the median over rounds."""
    judged: Judgement
    loss: float


def measured(case: Case, rounds: int) -> list[Row]:
    """All candidates of a case, judged and then run in turn."""
    qualities = [case.quality(candidate) for candidate in case.candidates]
    shapes = {name: list(array.shape) for name, array in case.latency_input.items()}
    runs = [candidate.open(shapes) for candidate in case.candidates]
    calls = {str(index): lambda run=run: run(case.latency_input) for index, run in enumerate(runs)}
    print(f"measuring {case.title}: {len(calls)} models, {rounds} rounds", flush=True)
    times = list(measure.interleaved(calls, rounds=rounds).values())
    return [
        Row(
            candidate,
            times[index],
            candidate.size / case.fp32.size,
            measure.speedup(times[0], times[index]),
            qualities[index],
            qualities[0].value - qualities[index].value,
        )
        for index, candidate in enumerate(case.candidates)
    ]


def best(rows: list[Row], case: Case) -> tuple[Row, Row]:
    """Our row and the best peer's, of those in ONNX Runtime.

    The best peer is the fastest that loses no more than is allowed (of all, where each loses more).
    Ours is the recipe that `openglm optimize` tries first on such a model, chosen before any figure
    was seen.
    """
    here = [row for row in rows if row.candidate.engine == "ONNX Runtime"]
    peers_here = [row for row in here if row.candidate.kind == "peer"]
    allowed = [row for row in peers_here if row.loss <= case.allowed] or peers_here
    peer = max(allowed, key=lambda row: row.ratio)
    return next(row for row in here if row.candidate.kind == "ours"), peer


def targets(rows: list[Row], case: Case) -> list[tuple[bool, str]]:
    """Whether each target is met, in words."""
    ours, peer = best(rows, case)
    lead = measure.speedup(peer.times, ours.times)
    name = f"{peer.candidate.name} in ONNX Runtime"
    error = chance(ours.judged, peer.judged)
    told = f", with a standard error of {error:.4f}" if error else ""
    return [
        (lead >= 1, f"at least as fast as the best peer ({name}): {lead:.2f}x its speed"),
        (
            ours.loss <= peer.loss + error,
            f"loses no more than it: {ours.loss:+.4f} against {peer.loss:+.4f} {case.metric}{told}",
        ),
        (ours.loss <= case.allowed, f"loses at most {case.allowed:g} {case.metric}: {ours.loss:+.4f}"),
        (ours.ratio >= case.faster, f"at least {case.faster:g}x the speed of fp32: {ours.ratio:.2f}x"),
        (ours.size <= LARGEST, f"at most {LARGEST:.0%} of the size of fp32: {ours.size:.1%}"),
    ]


def table(rows: list[Row], case: Case) -> str:
    """The rows as Markdown, the fastest first; ours that counts in bold."""
    ours, _ = best(rows, case)
    header = ["candidate", "engine", "size, MB", "of fp32", "ms (p10-p90)", "x fp32", case.metric, "loss"]
    lines = []
    for row in [rows[0], *sorted(rows[1:], key=lambda row: -row.ratio)]:
        timing = measure.summary(row.times)
        cells = [
            row.candidate.name,
            row.candidate.engine,
            f"{row.candidate.size / 1e6:.2f}",
            f"{row.size:.1%}",
            f"{timing.median_ms:.2f} ({timing.p10_ms:.2f}-{timing.p90_ms:.2f})",
            f"{row.ratio:.2f}",
            f"{row.judged.value:.4f}",
            f"{row.loss:+.4f}" if row.loss else "0",
        ]
        lines.append([f"**{cell}**" for cell in cells] if row is ours else cells)
    return tables.markdown(header, lines, left=2)


def record(rows: list[Row], case: Case, verdicts: list[tuple[bool, str]]) -> dict:
    """A case as JSON."""
    return {
        "case": case.title,
        "metric": case.metric,
        "samples": case.samples,
        "rows": [
            {
                "candidate": row.candidate.name,
                "engine": row.candidate.engine,
                "kind": row.candidate.kind,
                "size_bytes": row.candidate.size,
                "size_share": row.size,
                "timing": measure.summary(row.times).model_dump(),
                "speedup": row.ratio,
                "quality": row.judged.value,
                "loss": row.loss,
            }
            for row in rows
        ],
        "targets": [{"met": met, "target": words} for met, words in verdicts],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds glue/ and cifar10-jpeg/")
    parser.add_argument("--only", choices=tuple(NEEDED), help="one of the two cases")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    names = [options.only] if options.only else list(NEEDED)
    missing = [path for name in names for path in NEEDED[name] if not (options.data / path).is_file()]
    if missing:
        raise SystemExit(
            f"{options.data} has no {', '.join(missing)}: give the folder that holds them with --data."
        )
    versions = peers.versions()
    logging.disable(logging.WARNING)  # what other tools say of their own steps

    records = []
    for name in names:
        folder = FOLDER / "quantize" / name
        folder.mkdir(parents=True, exist_ok=True)
        case = _case(name)(options.data, folder)
        rows = measured(case, options.rounds)
        verdicts = targets(rows, case)
        lines = [f"- {'PASS' if met else 'MISS'}: {words}" for met, words in verdicts]
        how = f"Medians of {options.rounds} interleaved rounds."
        text = "\n\n".join([case.about, table(rows, case), "\n".join(lines)])
        tables.publish(f"quantize {name}", text, options, versions, how)
        records.append(record(rows, case, verdicts))
    if options.json:
        options.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return 0 if all(item["met"] for entry in records for item in entry["targets"]) else 1


def _case(name: str) -> Callable[[Path, Path], Case]:
    """What makes a case; imported when it is wanted, for it takes torch."""
    if name == "encoder":
        from quantize_encoder import case
    else:
        from quantize_conv import case
    return case


if __name__ == "__main__":
    sys.exit(main())
