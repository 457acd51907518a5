"""`optimize`: verdict first, then recipes tried one after another, and the best of them kept."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from openglm.data.dataset import Dataset
from openglm.device import profile
from openglm.device.budget import Budget
from openglm.device.fit import fit
from openglm.device.host import usable_cores
from openglm.device.profile import Device
from openglm.errors import InputError
from openglm.metrics import resolve
from openglm.model.auto import AutoModel
from openglm.model.model import Model
from openglm.model.sources import onnx_file
from openglm.passes import recipe as recipes
from openglm.passes.recipe import Recipe
from openglm.runtimes.engine import check_threads
from openglm.search.bench import Setup, no_room
from openglm.search.feed import sizes
from openglm.search.hunt import Hunt, Progress
from openglm.search.result import Result
from openglm.search.workers import Crew, crew_of

CALIBRATION_SAMPLES = 64
EVALUATION_SAMPLES = 256

__all__ = ["Progress", "optimize"]


def optimize(
    model: Model | str | PathLike[str],
    device: Device | str | PathLike[str],
    budget: Budget | None = None,
    *,
    data: Any = None,
    train: Any = None,
    metric: str | None = None,
    max_drop: float = 0.01,
    time_limit_s: float = 600.0,
    recipe: Recipe | str | PathLike[str] | None = None,
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    calibration_samples: int = CALIBRATION_SAMPLES,
    evaluation_samples: int = EVALUATION_SAMPLES,
    folder: str | PathLike[str] | None = None,
    storage: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Result:
    """Make `model` fit `device` within `budget`, keeping only what is measured to pay.

    `data` is a path, a `Dataset` or an iterable of dicts: half of it calibrates, half judges; without
    it, label-free text or noise stands in, and only the graph is worked on. With data, structures are
    pruned and factorised too, and trained to give what the original gives, on `train` or else on the
    half of `data` that does not judge. `metric` is "fidelity" (the default), "accuracy", "spearman" or
    "module:function"; `max_drop` how much of it may be lost. Latency is measured on ONNX Runtime with
    `threads` threads (the device's cores, up to this machine's), interleaved with the original. A
    recipe that is slower than the original, or loses more, is refused; the best of the rest is the
    fastest that fits the budget.

    `recipe`, passes or a TOML file, is tried alone instead of a search. `folder` keeps the search: one
    that was killed or stopped there goes on with the same call, and repeats nothing that was
    finished. `workers` processes, or those of the Ray cluster at the address `ray`, try recipes side by
    side; `storage` keeps the record elsewhere (a URL that Optuna knows, or a journal file). After
    `time_limit_s` nothing new is started, and Ctrl-C ends the search: what is best so far is returned.
    Raises `InputError` for input that cannot be used, `OutputError` where `folder` cannot be written.
    """
    if not 0 <= max_drop < float("inf"):
        raise InputError(
            f"A loss of at most {max_drop:g} makes no sense.", "Give --max-drop from 0 on, such as 0.01."
        )
    if not time_limit_s > 0:
        raise InputError(f"A time limit of {time_limit_s:g} seconds leaves no time.", "Give a longer --time.")
    if calibration_samples < 1 or evaluation_samples < 1:
        raise InputError(
            "At least one sample is needed to calibrate and to judge.", "Give --samples from 1 on."
        )
    if workers < 1:
        raise InputError(f"{workers} workers cannot work.", "Give --workers from 1 on.")
    check_threads(threads)
    if isinstance(recipe, str | PathLike):
        recipe = recipes.read(Path(recipe))
    resolve(metric or "fidelity")
    started = time.monotonic()
    device = profile.load(device if isinstance(device, Device) else str(device))
    setup = Setup(
        model=model if isinstance(model, Model) else str(model),
        device=device,
        budget=budget or Budget(),
        data=_again(data),
        training=_again(train),
        metric=metric or "fidelity",
        max_drop=max_drop,
        dims=dims,
        threads=threads or min(device.cpu.cores, usable_cores()),
        calibration_samples=calibration_samples,
        evaluation_samples=evaluation_samples,
    )
    progress(Progress("loading the model", 0, None))
    loaded = AutoModel.from_pretrained(model)
    onnx_file.check_finite(loaded.graph)
    verdict = fit(loaded, device, setup.budget, dims=sizes(loaded, dims))
    home, place, made = _folder(folder)
    crew: Crew | None = None
    hunt: Hunt | None = None
    try:
        progress(Progress("judging the original", 0, None))
        bench = setup.bench(Path(home.name), verdict=verdict, model=loaded)
        bench.folder = place
        hunt = Hunt(bench, place, recipe, time_limit_s, started, progress, storage)
        crew = crew_of(bench, workers, ray)
        hunt.run(crew)
        return hunt.result(home)
    except BaseException:
        home.cleanup()
        if hunt is None:  # nothing was begun that could be gone on with
            _unmake(place, made)
        raise
    finally:
        if crew is not None:
            crew.close()


def _again(data: Any) -> Any:
    """Data that can be read more than once: rows that come from an iterator are kept."""
    if data is None or isinstance(data, str | PathLike | Dataset):
        return str(data) if isinstance(data, PathLike) else data
    return list(data)


def _folder(folder: str | PathLike[str] | None) -> tuple[Any, Path, list[Path]]:
    """A temporary folder, the one that keeps the search (which may be the same), and what was made for it."""
    try:
        home = tempfile.TemporaryDirectory(prefix="openglm-")
        place = Path(folder or home.name).absolute()
        made = [path for path in (place, *place.parents) if not path.exists()]
        place.mkdir(parents=True, exist_ok=True)
        return home, place, made
    except OSError as error:
        raise no_room("the folder for temporary files" if folder is None else folder, error) from error


def _unmake(place: Path, made: list[Path]) -> None:
    """Remove a search's folder, and those around it, where they were made for it."""
    if place in made:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            for folder in made[1:]:
                folder.rmdir()
