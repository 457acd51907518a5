"""Sets a bundle's thresholds again where its inputs have changed, and makes a new bundle of it."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from openglm.bundle.manifest import Manifest, Program, Recalibration, Segment
from openglm.bundle.store import check_target, opened, writing
from openglm.data import open_data
from openglm.data.dataset import Dataset
from openglm.dynamic.calibration import CERTAINTY
from openglm.dynamic.program import open_program
from openglm.dynamic.recalibration import Recalibrated, recalibrate
from openglm.dynamic.samples import Samples
from openglm.dynamic.session import probes, read_probes
from openglm.errors import InputError
from openglm.model.auto import printable
from openglm.report.page import REPORT
from openglm.runtimes.onnxruntime import NAME, Runner
from openglm.search.bundled import Bundled
from openglm.search.feed import Feed
from openglm.search.package import seal
from openglm.search.rounding import rounding

SAMPLES = 2000


def calibrate(
    bundle: str | PathLike[str],
    data: Any,
    target: str | PathLike[str],
    *,
    max_drop: float | None = None,
    certainty: float | None = None,
    false_rejects: float | None = None,
    samples: int = SAMPLES,
    command: str = "openglm.calibrate(...)",
    progress: Callable[[str], None] = lambda _: None,
) -> Recalibrated:
    """Set the thresholds of a bundle's gates by `data`, at most `samples` of it, spread over all.

    The new bundle goes to `target`, which may be the same; all but thresholds and recorded outputs
    stays as it was, the figures that were measured when it was made among it. What is allowed is what
    its recipe says, if not given. Labels, where there are any, are numbers of classes, or values; where
    there are none, agreement with the whole model counts. Raises `InputError` for a bundle without
    thresholds and data that do not fit, `OutputError` where `target` cannot be written.
    """
    for name, value, most in (
        ("max_drop", max_drop, 1), ("certainty", certainty, 1), ("false_rejects", false_rejects, 1),
    ):  # fmt: skip
        if value is not None and not 0 <= value < most:
            raise InputError(f"{name} is {value:g}.", "Give a share, from 0 to less than 1.")
    check_target(Path(target))
    with opened(Path(bundle)) as (folder, manifest):
        asked = {key: value for step in manifest.recipe for key, value in step.items()}
        allowed = {
            "max_drop": asked.get("max_drop", 0.005) if max_drop is None else max_drop,
            "certainty": asked.get("certainty", CERTAINTY) if certainty is None else certainty,
            "false_rejects": asked.get("false_rejects", 0.01) if false_rejects is None else false_rejects,
        }
        dataset = data if isinstance(data, Dataset) else open_data(data)
        reader = Bundled.of(folder, manifest)
        feed = Feed(reader, dataset, {}, calibration_samples=1, evaluation_samples=1)
        progress("reading the samples")
        given = Samples.of(feed.numbered(dataset.spread(samples)))

        def load(segment: Segment) -> Runner:
            return Runner(folder / segment.models[NAME], threads=1)

        progress(f"running {len(given.labels)} samples")
        found = recalibrate(manifest.program, manifest.outputs, load, given, **allowed)
        record = Recalibration(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=printable(command),
            data=printable(dataset.name),
            samples=len(given.labels),
            max_drop=allowed["max_drop"],
            certainty=allowed["certainty"],
            work=(round(found.before.work, 4), round(found.after.work, 4)),
            drop=(round(found.before.drop, 6), round(found.after.drop, 6)),
            notes=found.notes,
        )
        with writing(Path(target)) as place:
            _write(place, folder, manifest, found.program, record)
    return found


def _write(place: Path, folder: Path, manifest: Manifest, program: Program, record: Recalibration) -> None:
    """The bundle's files with another program, its recorded outputs those of that."""
    for name in manifest.files:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place / name)
    changes: dict[str, Any] = {"program": program, "recalibrated": (*manifest.recalibrated, record)}
    if manifest.probes is not None:
        runner = open_program(program, manifest.outputs, folder)
        given = [inputs for inputs, _ in read_probes(folder / manifest.probes)]
        np.savez_compressed(place / manifest.probes, **probes(runner, given))  # type: ignore[arg-type]
        changes["rounding"] = rounding(program, manifest.outputs, folder, place / manifest.probes)
    changed = manifest.model_copy(update=changes)
    seal(place, changed, report=REPORT in manifest.files)
