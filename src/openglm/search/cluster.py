"""Trying recipes on a Ray cluster: models and data are read on each machine, made models come back.

The study stays with the process that searches. A task whose worker dies is started again by Ray, on
whatever machine has room.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

from openglm.errors import InputError, MissingExtraError
from openglm.passes.recipe import code
from openglm.search.bench import Bench, Setup, portable
from openglm.search.trial import attempt, store
from openglm.search.workers import TRIES, Job, Tick, limit_threads, lost

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, started for the search."""
_benches: dict[str, Bench] = {}
_ERROR = 40  # logging.ERROR


class Cluster:
    """The workers of a Ray cluster."""

    def __init__(self, bench: Bench, address: str) -> None:
        """Join the cluster at `address`, or start one where it is "local".

        Raises `MissingExtraError` without Ray, `InputError` where there is no such cluster.
        """
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would tell its makers of each start
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("Ray, which reaches other machines,", "cluster") from error
        self._ray = ray
        self._setup = portable(bench.setup)
        self._joined = not ray.is_initialized()
        try:
            if self._joined:
                _reach(address)
                ray.init(
                    address=address,
                    include_dashboard=False if address == LOCAL else None,
                    log_to_driver=False,
                    logging_level=_ERROR,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"There is no Ray cluster at {address} ({str(error).splitlines()[0][:150]}).",
                "Start one with `ray start --head`, or give --ray local.",
            ) from error
        self._threads = bench.setup.threads
        self._task = ray.remote(num_cpus=self._threads, max_retries=TRIES - 1)(evaluate)
        self._running: dict[Any, Job] = {}

    @property
    def size(self) -> int:
        """How many trials fit the cluster at once."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    def submit(self, job: Job) -> None:
        """See `Crew`."""
        self._running[self._task.remote(self._setup, job)] = job

    def wait(self, tick: Tick) -> tuple[int, str]:
        """See `Crew`."""
        while True:
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=1.0)
            if ready:
                break
            tick(f"{len(self._running)} on the cluster: {code(next(iter(self._running.values())).recipe)}", 0)
        job = self._running.pop(ready[0])
        try:
            content, files = self._ray.get(ready[0])
        except self._ray.exceptions.WorkerCrashedError:
            return job.number, store(lost(job, "its worker died"))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        job.folder.mkdir(parents=True, exist_ok=True)
        for name, held in files.items():
            (job.folder / name).write_bytes(held)
        return job.number, str(content)

    def close(self) -> None:
        """See `Crew`."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._joined:
            self._ray.shutdown()


def _reach(address: str) -> None:
    """Raise `OSError` where nothing listens at host:port, which Ray itself would wait minutes for."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def evaluate(setup: Setup, job: Job) -> tuple[str, dict[str, bytes]]:
    """On a worker: a trial as `store` writes it, and the files of its folder."""
    from filelock import FileLock

    key = repr(setup)
    if key not in _benches:
        limit_threads(max(1, (os.cpu_count() or 1) // setup.threads))
        _benches.clear()
        folder = Path(tempfile.mkdtemp(prefix="openglm-"))
        bench = setup.bench(folder)
        bench.alone = lambda: FileLock(Path(tempfile.gettempdir()) / "openglm-measuring.lock")
        _benches[key] = bench
    bench = _benches[key]
    folder = bench.folder / f"{job.number:04}"
    trial = attempt(job.recipe, bench, folder, lambda _, __: None, effort=job.effort, expected=job.expected)
    content = store(trial)
    return content, {file.name: file.read_bytes() for file in folder.glob("*") if file.is_file()}
