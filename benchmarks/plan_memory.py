"""The memory planner on minimalloc's instances, and on the graphs of models for phones.

    python benchmarks/plan_memory.py --data ../shared/data --write-docs

The instances must fit a given capacity, which is the least possible for most of them. They are planned two
at a time, each in a process of its own on one thread; a round plans all of them with another seed.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir

from openglm.memory import greedy
from openglm.memory.allocation import Allocation, allocate
from openglm.memory.order import best
from openglm.memory.plan import plan
from openglm.memory.problem import Span, lower_bound, overlap, top
from openglm.model.analysis.shapes import resolve
from tables import markdown, publish

LIMIT = 20
"""Seconds in which all instances are to be planned."""
SHARE = 0.95
"""Of the graphs, how many are to be planned at their lower bound."""
PROCESSES = 2


def read(path: Path) -> list[Span]:
    with path.open(encoding="utf-8") as file:
        return [Span(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in csv.DictReader(file)]


def capacity(path: Path) -> int:
    """The files are called NAME.CAPACITY.csv."""
    return int(path.stem.split(".")[1])


def planned(path: Path, seed: int) -> tuple[Allocation, float]:
    """An instance's plan within its capacity, if one is found in a minute; the processor time it took."""
    spans, begun = read(path), time.process_time()
    found = allocate(spans, seconds=60, enough=capacity(path), seed=seed)
    seconds = time.process_time() - begun
    assert overlap(spans, found.offsets) is None
    return found, seconds


def instances(folder: Path, rounds: int) -> tuple[str, bool]:
    paths = sorted(folder.glob("*.csv"))
    largest_first = sorted(paths, key=lambda path: -len(read(path)))
    found: dict[Path, list[tuple[Allocation, float]]] = {path: [] for path in paths}
    walls = []
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.starmap(lower_bound, [([],)] * PROCESSES)  # the processes have started before the clock does
        for seed in range(rounds):
            begun = time.perf_counter()
            results = [(path, pool.apply_async(planned, (path, seed))) for path in largest_first]
            for path, result in results:
                found[path].append(result.get())
            walls.append(time.perf_counter() - begun)
            print(f"round {seed}: {walls[-1]:.1f} s", flush=True)
    rows, fits = [], True
    for path, results in found.items():
        spans, room = read(path), capacity(path)
        worst = max(allocation.top for allocation, _ in results)
        fits = fits and worst <= room
        seconds = [second for _, second in results]
        rows.append(
            [
                path.stem.split(".")[0],
                str(len(spans)),
                f"{lower_bound(spans) / room:.3f}",
                f"{top(spans, greedy.by_size(spans)) / room:.3f}",
                f"{top(spans, greedy.best(spans)) / room:.3f}",
                f"{worst / room:.3f}",
                f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
            ]
        )
    header = ["instance", "buffers", "lower bound", "largest first", "best greedy", "openglm", "processor, s"]
    text = markdown(header, rows, left=1)
    wall = f"median {statistics.median(walls):.1f} s, {min(walls):.1f} to {max(walls):.1f} s"
    quick = max(walls) <= LIMIT
    limit = f"all of them together, two at a time, within {LIMIT} s by the clock"
    return (
        f"Memory as a share of the capacity; of {rounds} rounds with different seeds the worst plan, and the "
        f"median of processor time with its range.\n\n{text}\n\n"
        f"- {'PASS' if fits else 'FAIL'}: every instance fits its capacity (1.000) in every round\n"
        f"- {'PASS' if quick else 'FAIL'}: {limit}: {wall}",
        fits and quick,
    )


def graphs(folder: Path, seconds: float) -> tuple[str, bool]:
    rows, times, over, gains = [], [], [], []
    at_bound = proven = 0
    paths = sorted(folder.glob("*.onnx"))
    for path in paths:
        shapes = resolve(ir.from_proto(onnx.load(path, load_external_data=False)))
        given = plan(shapes, seconds=seconds)
        order = best(shapes, in_place=True, seconds=seconds)
        reordered = (
            plan(shapes, order="best", seconds=seconds) if order.nodes != tuple(shapes.graph) else given
        )
        times.append(given.seconds)
        at_bound += given.arena_bytes == given.lower_bound
        proven += order.optimal
        over.append(given.greedy_bytes / given.lower_bound - 1)
        gains.append(1 - reordered.arena_bytes / given.arena_bytes)
        print(f"{path.stem}: {given.arena_bytes:,} {given.seconds:.2f} s, best {gains[-1]:.1%}", flush=True)
        if gains[-1] > 0.01 or given.arena_bytes > given.lower_bound or over[-1] > 0.01:
            rows.append(
                [
                    path.stem.split("__")[1],
                    str(len(given.steps)),
                    f"{given.lower_bound / 1e6:.2f}",
                    f"{given.arena_bytes / given.lower_bound:.3f}",
                    f"{given.greedy_bytes / given.lower_bound:.3f}",
                    f"{given.seconds:.2f}",
                    f"{reordered.arena_bytes / given.lower_bound:.3f}",
                    "yes" if order.optimal else "",
                ]
            )
    header = [
        "graph", "nodes", "lower bound, MB", "openglm", "largest first", "seconds", "reordered", "proven",
    ]  # fmt: skip
    better = [gain for gain in gains if gain > 0]
    worse = [share for share in over if share > 0]
    enough = at_bound >= SHARE * len(paths)
    typical = f"{statistics.median(better or [0]):.1%} in the median of these, {max(gains):.1%} at most"
    return (
        f"{len(paths)} graphs; memory as a share of the lower bound in the order of the file. Shown are "
        "those on which planners or orders differ by more than 1 %.\n\n"
        f"{markdown(header, rows, left=1)}\n\n"
        f"- {'PASS' if enough else 'FAIL'}: at the lower bound for at least {SHARE:.0%} of the graphs: "
        f"{at_bound} of {len(paths)}\n"
        f"- largest first, as TensorFlow Lite does it, needs more on {len(worse)}, up to {max(over):.1%}\n"
        f"- another order of operators needs less on {len(better)}: by {typical}; on {proven} it is proven "
        "that no order needs less than the one found\n"
        f"- planning takes {statistics.median(times):.2f} s in the median, {max(times):.2f} s at most; the "
        f"search for an order ends after {seconds / 2:.0f} s",
        enough,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with memory-planning/ and phone-latency/"
    )
    parser.add_argument("--rounds", type=int, default=5, help="with different seeds, of the instances")
    parser.add_argument("--seconds", type=float, default=10, help="for planning each graph")
    parser.add_argument("--only", choices=["instances", "graphs"])
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/benchmarks.md")
    given = parser.parse_args()
    versions = {name: version(name) for name in ("numpy", "onnx")}
    passed = True
    if given.only != "graphs":
        text, fine = instances(given.data / "memory-planning", given.rounds)
        publish("plan instances", text, given, versions, f"{PROCESSES} processes at a time.")
        passed = passed and fine
    if given.only != "instances":
        text, fine = graphs(given.data / "phone-latency" / "graphs", given.seconds)
        publish("plan graphs", text, given, versions, "One process.")
        passed = passed and fine
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
