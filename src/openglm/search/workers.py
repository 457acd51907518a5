"""Who tries recipes: this process, several processes of this machine, or a Ray cluster."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from openglm.bundle.manifest import Candidate
from openglm.errors import OpenGLMError
from openglm.passes.recipe import Recipe, code
from openglm.search.bench import Bench, Setup, portable
from openglm.search.trial import Trial, attempt, store

Tick = Callable[[str, float], None]
TRIES = 2
"""How often a trial is tried whose worker died."""


@dataclass(frozen=True)
class Job:
    """A trial to be made."""

    number: int
    recipe: Recipe
    effort: int
    folder: Path
    """Where its model goes."""
    expected: float | None = None
    """How many times faster a model of the same shapes was, where one was measured."""


class Crew(Protocol):
    """Makes trials."""

    @property
    def size(self) -> int:
        """How many at once."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job; no more than `size` at once."""
        ...

    def wait(self, tick: Tick) -> tuple[int, str]:
        """The number of a job that is done, and its trial as `store` writes it.

        Raises what making it raised: `OutputError` where the disk is full.
        """
        ...

    def close(self) -> None:
        """Let go; what is under way is dropped."""
        ...


def crew_of(bench: Bench, workers: int, ray: str | None) -> Crew:
    """The crew that was asked for."""
    if ray is not None:
        from openglm.search.cluster import Cluster

        return Cluster(bench, ray)
    return Alone(bench) if workers == 1 else Processes(portable(bench.setup), bench.folder, workers)


class Alone:
    """This process, one trial at a time."""

    size = 1

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._job: Job | None = None

    def submit(self, job: Job) -> None:
        """See `Crew`."""
        self._job = job

    def wait(self, tick: Tick) -> tuple[int, str]:
        """See `Crew`."""
        job = self._job
        assert job is not None
        name = code(job.recipe)
        trial = attempt(
            job.recipe,
            self._bench,
            job.folder,
            lambda text, share: tick(f"{name}: {text}", share),
            effort=job.effort,
            expected=job.expected,
        )
        return job.number, store(trial)

    def close(self) -> None:
        """See `Crew`."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    ready: bool = False


@dataclass
class Processes:
    """Processes of this machine, each with the model loaded; they measure one at a time.

    Each has its share of the machine's cores for training. A trial whose process dies is tried again
    by a new one.
    """

    setup: Setup
    folder: Path
    size: int
    _workers: list[_Worker] = field(default_factory=list)
    _deaths: dict[int, int] = field(default_factory=dict)

    def submit(self, job: Job) -> None:
        """See `Crew`."""
        free = next((worker for worker in self._workers if worker.job is None), None)
        if free is None:
            free = self._start()
        free.job = job
        free.pipe.send(job)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # a fork would share torch's and the engine's threads
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.setup, self.folder, self.size), daemon=True)
        process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def wait(self, tick: Tick) -> tuple[int, str]:
        """See `Crew`."""
        while True:
            by_pipe = {worker.pipe: worker for worker in self._workers}
            for pipe in wait(list(by_pipe)):
                worker = by_pipe[pipe]  # type: ignore[index]
                try:
                    kind, value, share = worker.pipe.recv()
                except (EOFError, OSError):
                    if (ended := self._died(worker)) is not None:
                        return ended
                    continue
                job = worker.job
                if kind == "tick":
                    tick(str(value), share)
                elif kind == "error":
                    raise value
                elif job is not None:
                    worker.job = None
                    return job.number, str(value)

    def _died(self, worker: _Worker) -> tuple[int, str] | None:
        """Hand a dead worker's job to a new one, or give it up as failed."""
        self._workers.remove(worker)
        worker.process.join()
        job = worker.job
        if job is None:
            return None
        self._deaths[job.number] = self._deaths.get(job.number, 0) + 1
        if self._deaths[job.number] < TRIES:
            self.submit(job)
            return None
        return job.number, store(lost(job, f"its process ended with exit code {worker.process.exitcode}"))

    def close(self) -> None:
        """See `Crew`."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        deadline = time.monotonic() + 5
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
        self._workers.clear()


def lost(job: Job, why: str) -> Trial:
    """The trial of a job that no worker could end."""
    candidate = Candidate(
        code=code(job.recipe),
        recipe=tuple(step.to_recipe() for step in job.recipe),
        outcome="failed",
        reason=f"Tried {TRIES} times, and each time {why}; the memory may be too small.",
        effort=job.effort,
    )
    return Trial(candidate, job.recipe)


def _work(pipe: Connection, setup: Setup, folder: Path, share: int) -> None:
    """A worker process: makes the bench, then trial after trial until the pipe closes."""
    import signal

    from filelock import FileLock

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that was started
    limit_threads(share)
    try:
        with tempfile.TemporaryDirectory(prefix="openglm-") as own:
            bench = setup.bench(Path(own))
            bench.folder = folder
            bench.alone = lambda: FileLock(folder / "measuring.lock")
            crew = Alone(bench)
            while True:
                job = pipe.recv()
                crew.submit(job)
                _, content = crew.wait(lambda text, done: pipe.send(("tick", text, done)))
                pipe.send(("done", content, 1.0))
    except (EOFError, BrokenPipeError):
        return
    except (OpenGLMError, OSError) as error:
        pipe.send(("error", error, 1.0))


def limit_threads(workers: int) -> None:
    """Leave each of `workers` processes its share of the cores for training."""
    import os

    from openglm.device.host import usable_cores

    count = max(1, usable_cores() // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(count))
