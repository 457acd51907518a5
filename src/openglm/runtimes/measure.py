"""Measuring latency: candidates in turn, many rounds, medians and spread.

A machine's speed drifts. Models that are compared are run one after the other within each round, so
that drift meets all of them alike, and a ratio holds where a single figure would not.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from openglm.bundle.manifest import Host, Timing
from openglm.device.host import processor_name, usable_cores
from openglm.runtimes.engine import Runs


def running(runner: Runs, batches: Sequence[Mapping[str, np.ndarray]]) -> Callable[[], None]:
    """A call that runs a model on one batch after another."""

    def run() -> None:
        for batch in batches:
            runner.run(batch)

    return run


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int = 15, seconds: float | None = None, warmup: int = 2
) -> dict[str, np.ndarray]:
    """Wall-clock milliseconds of each call in each round, shape (rounds,).

    With `seconds`, rounds stop after that time, but never below five.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for done in range(rounds):
        if seconds is not None and done >= 5 and time.perf_counter() - begin > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def summary(milliseconds: np.ndarray) -> Timing:
    """Median and spread of one call's rounds."""
    low, middle, high = np.percentile(milliseconds, [10, 50, 90])
    return Timing(
        median_ms=round(float(middle), 4),
        p10_ms=round(float(low), 4),
        p90_ms=round(float(high), 4),
        rounds=len(milliseconds),
    )


def speedup(original: np.ndarray, candidate: np.ndarray) -> float:
    """The median over rounds of how many times faster the candidate was, round by round."""
    return float(np.median(original / candidate))


def host(engine: str, threads: int) -> Host:
    """This machine, as figures measured on it name it."""
    return Host(
        processor=processor_name(),
        cores=usable_cores(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        engine=engine,
        threads=threads,
    )
