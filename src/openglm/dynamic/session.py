"""Sessions: a bundle, loaded and ready to run, with numpy and one engine."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from openglm.bundle.manifest import Manifest
from openglm.bundle.store import opened
from openglm.device.host import usable_cores
from openglm.dynamic.memory_limit import MemoryLimit
from openglm.dynamic.program import ProgramRunner, Trace, files_of, open_program
from openglm.errors import InputError, VerificationError
from openglm.model.processors.processor import Processor, from_settings
from openglm.model.tensor import check_inputs
from openglm.runtimes.engine import Runs, check_threads, engines
from openglm.runtimes.onnxruntime import NAME

AUTO = "auto"
TOLERANCE = 0.01
"""Largest difference from a recorded output, as a share of the largest recorded value, that another
processor's rounding explains where a bundle says nothing of its own."""
SPREAD = 2.0
"""How many times a bundle's own `rounding` another processor's may be: both are samples of one spread."""
LARGEST = 0.25
"""The largest difference that any rounding explains: beyond it, a check would prove nothing."""


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    runtime: str = NAME,
    memory_mb: float | None = None,
    arena: bool = True,
) -> Session:
    """Load a bundle, a folder or a zip of it, with every file's hash checked.

    `threads` are those that were fastest when the bundle was made, if not given. `runtime` is the engine, one
    that the bundle has a model for, with one of its processors if it has several ("onnxruntime:xnnpack");
    "auto" takes the fastest, as measured when it was exported, that is installed here. `memory_mb` is how
    many megabytes (10^6 bytes) of resident memory loading and running may add to the process; `InputError`
    is raised as soon as it was more. Without `arena` an engine that has the choice keeps no memory from one
    run to the next.

    Raises `InputError` where there is no bundle, or no model for the engine, or the engine has no such
    processor, `MissingExtraError` where that is not installed, `VerificationError` where the bundle is not
    whole.
    """
    check_threads(threads)
    limit = MemoryLimit(memory_mb)
    stack = ExitStack()
    try:
        folder, manifest = stack.enter_context(opened(Path(path)))
        runtime = fastest(manifest) if runtime == AUTO else runtime
        return Session(folder, manifest, threads or _best_threads(manifest), stack, runtime, limit, arena)
    except BaseException:
        stack.close()
        raise


def fastest(manifest: Manifest) -> str:
    """The engine that runs a bundle fastest, as was measured, of those that are installed here."""
    here = [target for target in manifest.targets if target.speedup and engines()[target.engine].version]
    best = max(here, key=lambda target: target.speedup or 0.0, default=None)
    return NAME if best is None or (best.speedup or 0.0) <= 1 else best.engine


def _best_threads(manifest: Manifest) -> int | None:
    best = manifest.best_threads
    return best if best is not None and best <= usable_cores() else None


class Agreement(NamedTuple):
    """How far outputs are from the recorded ones."""

    difference: float
    """The largest difference, as a share of the largest recorded value of its output."""
    identical: float
    """The share of values that are the same bit for bit."""


class Session:
    """A loaded bundle. `run` is all that an app needs; close it, or use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        threads: int | None,
        resources: ExitStack,
        runtime: str,
        limit: MemoryLimit,
        arena: bool,
    ) -> None:
        self.manifest = manifest
        self._limit = limit
        self.runtime = runtime
        self._folder = folder
        self._resources = resources
        files_of(manifest.program, runtime, folder)  # an engine that was not exported for is no fault of it
        try:
            self._runner: ProgramRunner | None = open_program(
                manifest.program, manifest.outputs, folder, threads=threads, runtime=runtime, arena=arena
            )
        except InputError as error:
            raise VerificationError(error.problem, "Make the bundle again, or upgrade the engine.") from error
        self._limit.check()
        self._processor: Processor | None = None

    @property
    def processor(self) -> Processor:
        """What turns text or pictures into inputs; raises `InputError` where the bundle has none."""
        if self._processor is None:
            if self.manifest.processor is None:
                takes = ", ".join(map(str, self.manifest.inputs))
                raise InputError(
                    f"The bundle {self.manifest.name} takes arrays only: {takes}.", "Give those by name."
                )
            self._processor = from_settings(self.manifest.processor, self._folder)
        return self._processor

    def run(
        self,
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        text_pair: str | Sequence[str] | None = None,
        image: Any = None,
    ) -> dict[str, np.ndarray]:
        """The outputs by name, arrays whose first axis is the batch.

        Give arrays by input name, or `text` (and `text_pair`), one or several, or `image`, a path
        or an array of shape (height, width, 3), or a list of these. Raises `InputError` for inputs
        that do not fit.
        """
        runner, inputs = self._prepared(arrays, text, text_pair, image)
        found = runner.run(inputs)
        self._limit.check()
        return found

    def trace(
        self,
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        text: str | Sequence[str] | None = None,
        text_pair: str | Sequence[str] | None = None,
        image: Any = None,
    ) -> tuple[dict[str, np.ndarray], Trace]:
        """As `run`, with how far each input went through the program and what it cost."""
        runner, inputs = self._prepared(arrays, text, text_pair, image)
        found = runner.traced(inputs)
        self._limit.check()
        return found

    def _prepared(
        self, arrays: Mapping[str, np.ndarray] | None, text: Any, text_pair: Any, image: Any
    ) -> tuple[ProgramRunner, dict[str, np.ndarray]]:
        if (arrays is not None) + (text is not None) + (image is not None) != 1:
            raise InputError("A run takes exactly one of arrays, text and image.", "Give one of them.")
        if text_pair is not None and text is None:
            raise InputError("A second text was given without a first.", "Give text along with text_pair.")
        if self._runner is None:
            raise InputError("The session is closed.", "Load the bundle again.")
        if arrays is None:
            arrays = self.processor(_samples(text, text_pair, image))
        return self._runner, check_inputs(self.manifest.inputs, arrays)

    def verify(self) -> float:
        """Run the recorded probes; the largest difference, as a share of the largest recorded output.

        Raises `VerificationError` where rounding does not explain it or there are no probes.
        """
        return agreement(self._folder, self.manifest, self.run).difference

    def close(self) -> None:
        """Free the model, and the folder a zip was unpacked to; a closed session runs no more."""
        self._runner = None
        self._resources.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def probes(runner: Runs, batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays for a bundle's probes file: for each batch i, "i/in.NAME" and "i/out.NAME"."""
    content: dict[str, np.ndarray] = {}
    for index, batch in enumerate(batches):
        content |= {f"{index}/in.{name}": array for name, array in batch.items()}
        content |= {f"{index}/out.{name}": array for name, array in runner.run(batch).items()}
    return content


def read_probes(path: Path) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Inputs and outputs, by name, of each batch that `probes` recorded."""
    with np.load(path, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    numbers = sorted({name.partition("/")[0] for name in content})

    def part(start: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(start): array for name, array in content.items() if name.startswith(start)}

    return [(part(f"{number}/in."), part(f"{number}/out.")) for number in numbers]


def agreement(
    folder: Path, manifest: Manifest, run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> Agreement:
    """What `run` gives for a bundle's probes against what was recorded.

    Raises `VerificationError` where they differ by more than `TOLERANCE` and `SPREAD` times what rounding
    changed when the bundle was made, or there are no probes.
    """
    if manifest.probes is None:
        raise VerificationError("The bundle holds no recorded outputs to compare with.", "Make it again.")
    worst, same, values = 0.0, 0, 0
    try:
        for given, recorded in read_probes(folder / manifest.probes):
            found = run(given)
            for name, array in recorded.items():
                worst = max(worst, difference(found[name], array))
                same += _identical(found[name], array)
                values += array.size
        if not values:
            raise ValueError("there are none")
    except (InputError, ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(
            f"The recorded inputs and outputs do not go with the model ({error}).",
            "Make the bundle again.",
        ) from error
    allowed = max(TOLERANCE, min(SPREAD * manifest.rounding, LARGEST))
    if not worst <= allowed:
        raise VerificationError(
            f"The model's outputs differ from the recorded ones by {worst:.2%} of their range; "
            f"rounding explains {allowed:.2%}.",
            "Use another version of the engine, or make the bundle again on this machine.",
        )
    return Agreement(worst, same / values)


def difference(found: np.ndarray, recorded: np.ndarray) -> float:
    """The largest difference of two arrays as a share of the largest recorded value; infinite for others'
    shapes and where a number is missing on one side."""
    if found.shape != recorded.shape:
        return float("inf")
    if not recorded.size:
        return 0.0
    gap = np.abs(found.astype(np.float64) - recorded.astype(np.float64))
    # The same NaN or infinity on both sides is no difference; on one side it is the largest.
    gap = np.where((found == recorded) | (np.isnan(found) & np.isnan(recorded)), 0.0, gap)
    gap = np.nan_to_num(gap, nan=np.inf, posinf=np.inf)
    scale = float(np.abs(recorded[np.isfinite(recorded)]).max(initial=0.0))
    return float(gap.max() / scale) if scale else float(gap.max())


def _identical(found: np.ndarray, recorded: np.ndarray) -> int:
    """How many values are the same bit for bit."""
    if found.shape != recorded.shape or found.dtype != recorded.dtype:
        return 0
    one, other = (
        np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.itemsize) for array in (found, recorded)
    )
    return int((one == other).all(axis=1).sum())


def _samples(text: Any, text_pair: Any, image: Any) -> list[dict[str, Any]]:
    if image is not None:
        images = image if isinstance(image, list | tuple) else [image]
        return [{"image": item} for item in images]
    texts = [text] if isinstance(text, str) else list(text)
    if text_pair is None:
        return [{"text": item} for item in texts]
    pairs = [text_pair] if isinstance(text_pair, str) else list(text_pair)
    if len(pairs) != len(texts):
        raise InputError(f"There are {len(texts)} texts and {len(pairs)} pairs.", "Give as many of each.")
    return [{"text": one, "text_pair": other} for one, other in zip(texts, pairs, strict=True)]
