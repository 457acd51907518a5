"""How many threads a program runs fastest with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openglm.bundle.manifest import Program, ThreadCount
from openglm.device.host import usable_cores
from openglm.dynamic.program import open_program
from openglm.model.tensor import TensorSpec
from openglm.runtimes import measure
from openglm.search.feed import Batch

ROUNDS, SECONDS = 15, 4.0


def counts(cores: int) -> list[int]:
    """Numbers of threads that are worth a try on a device of so many cores, as far as this machine has
    them: doubling, and all."""
    most = max(1, min(cores, usable_cores()))
    doubling = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return [*doubling, most]


def measured(
    program: Program, outputs: Sequence[TensorSpec], folder: Path, inputs: Sequence[Batch], cores: int
) -> tuple[ThreadCount, ...]:
    """The latency of an input at each of `counts`, measured in turn."""
    runners = {str(count): open_program(program, outputs, folder, threads=count) for count in counts(cores)}
    calls = {count: measure.running(runner, inputs) for count, runner in runners.items()}
    times = measure.interleaved(calls, rounds=ROUNDS, seconds=SECONDS)
    return tuple(
        ThreadCount(threads=int(count), timing=measure.summary(found / len(inputs)))
        for count, found in times.items()
    )
