"""Models and bundles, alone or side by side, by the instructions that an inference takes on an ARM processor.

Instructions are not time: a core may start several at once, and waits for memory. But they are the same on
every machine and at every load, and of two versions of a model on one core they tell the lighter one. What
time they take, `device/instructions.py` predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from openglm.arm.cpus import Cpu, cpu
from openglm.arm.emulator import TIMES, Counts, Emulator
from openglm.device.instructions import Counted, digest
from openglm.dynamic.program import ProgramFile, files_of
from openglm.errors import InputError
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import printable
from openglm.model.sources import onnx_file
from openglm.runtimes.onnxruntime import NAME, version
from openglm.search.comparison import Opened, check_alike, open_source, timed
from openglm.search.feed import Feed

SAMPLES = 8
"""Inputs that a program with gates is counted on."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Side(_Part):
    """What was counted of one of them, for one inference."""

    name: str
    instructions: int
    ratio: float
    """Its instructions as a share of the first one's."""
    floats: int
    integers: int
    dots: int
    matrices: int
    """Of the instructions those that multiply vectors, by kind: `Counts` says which."""
    graph: str | None
    """What `fit` knows it by; none where it is not one graph, or names sizes that the first does not."""


class Comparison(_Part):
    """Several counted on one processor."""

    cpu: str
    sides: tuple[Side, ...]
    inputs: int
    """How many inputs were run: counts are the mean of these."""
    shape: dict[str, int]
    engine: str

    def counted(self) -> list[Counted]:
        """What `fit` predicts from; raises `InputError` for a program of several segments."""
        own = {"floats", "integers", "dots", "matrices", "instructions"}
        made = []
        for side in self.sides:
            if side.graph is None:
                raise InputError(
                    f"`fit` cannot use the count of {side.name}: it is a program of several graphs, or "
                    f"names other sizes than {self.sides[0].name}.",
                    "Count it alone, or a program's segments by their files.",
                )
            made.append(
                Counted(
                    model=side.name,
                    graph=side.graph,
                    cpu=self.cpu,  # type: ignore[arg-type]  # checked when it was found
                    shape=self.shape,
                    engine=self.engine,
                    **side.model_dump(include=own),
                )
            )
        return made


def compare(
    sources: Sequence[str],
    name: str,
    folder: Path,
    *,
    dims: Mapping[str, int],
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Count one or more, each a bundle or a source that `AutoModel` reads; work files go into `folder`.

    All run on the same inputs, of the sizes that the first was measured with. Raises `InputError` where
    they do not take the same inputs, or ARM emulation is not set up.
    """
    core = cpu(name)
    with ExitStack() as resources:
        opened = [
            open_source(source, folder / f"{index}.onnx", dims, resources)
            for index, source in enumerate(sources)
        ]
        check_alike(dict(zip(sources, opened, strict=True)))
        first = opened[0]
        feed = Feed(first.reads, None, first.shape, calibration_samples=1, evaluation_samples=SAMPLES)
        inputs = timed(feed, opened)
        counts = []
        for source, each in zip(sources, opened, strict=True):
            progress(f"emulating {printable(source)}")
            counts.append(count(each.path, inputs, core))
    base = counts[0].instructions
    return Comparison(
        cpu=name,
        sides=tuple(
            Side(
                name=printable(source),
                ratio=found.instructions / base,
                graph=_digest(each, first.shape),
                **vars(found),
            )
            for source, each, found in zip(sources, opened, counts, strict=True)
        ),
        inputs=len(inputs),
        shape=first.shape,
        engine=f"{NAME} {version()}",
    )


def _digest(opened: Opened, shape: Mapping[str, int]) -> str | None:
    """Of a model's graph, or of a program's where that is one, at the sizes that were run."""
    if not set(opened.shape) <= set(shape):
        return None
    path = opened.path
    if path.suffix == ".json":
        program = ProgramFile.read(path).program
        if len(program.segments) > 1 or program.gates:
            return None
        (path,) = files_of(program, NAME, path.parent).values()
    return digest(analyse(onnx_file.read(path), {name: shape[name] for name in opened.shape}))


def count(path: Path, inputs: Sequence[Mapping[str, np.ndarray]], core: Cpu, times: int = TIMES) -> Counts:
    """What one inference takes in the mean of some inputs, each run `times` times: of a model's file, or of a
    program's segments."""
    with Emulator(core, counted=times) as emulator:
        runner = emulator.open(path)
        for arrays in inputs:
            runner.run(arrays)
        spent = vars(emulator.spent)
    return Counts(*(round(number / len(inputs)) for number in spent.values()))
