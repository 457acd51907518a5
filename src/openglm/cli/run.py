"""`openglm run`: a bundle, on what the user gives it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import out, print_json

if TYPE_CHECKING:
    import numpy as np

    from openglm.dynamic.program import Trace

SHOWN = 6
"""Values of an output that are printed; --json and --save give all."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="run")(run)


def run(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip; or a .tflite file, on arrays."),
    text: list[str] = typer.Option([], "--text", "-t", help="A text; again for more."),
    pair: list[str] = typer.Option([], "--pair", help="A second text for each, for models that take two."),
    image: list[Path] = typer.Option([], "--image", help="A picture; again for more."),
    arrays: Path | None = typer.Option(None, help="An .npz with the model's inputs by name."),
    save: Path | None = typer.Option(None, help="Write the outputs to this .npz."),
    runtime: str = typer.Option(
        "onnxruntime",
        help="The engine; another one that the bundle was exported for, or auto: the fastest. Some choose a "
        "processor (openglm doctor): onnxruntime:xnnpack.",
    ),
    threads: int | None = typer.Option(
        None, min=1, help="Threads; those that were measured fastest if not given."
    ),
    memory_mb: float | None = typer.Option(
        None, help="Megabytes of memory that loading and running may take; beyond that it stops."
    ),
    arena: bool = typer.Option(
        True, "--arena/--no-arena", help="Keep memory from one run to the next, where the engine can."
    ),
    json: bool = typer.Option(False, "--json", help="Print all outputs as JSON."),
) -> None:
    """Run a bundle. Nothing leaves the machine, and neither torch nor the network is needed.

    \b
    Examples:
      openglm run small --text "A cat sat on the mat." --text "A kitten lay on the rug."
      openglm run small.zip --arrays inputs.npz --save outputs.npz
    """
    import numpy as np

    from openglm.dynamic.model_file import FileSession, load
    from openglm.errors import InputError
    from openglm.writing import replacing

    if bool(text) + bool(image) + (arrays is not None) != 1:
        raise InputError(
            "Nothing, or more than one kind of thing, was given to run on.",
            "Give --text, --image or --arrays.",
        )
    with load(bundle, threads=threads, runtime=runtime, memory_mb=memory_mb, arena=arena) as session:
        given: dict[str, Any] = {"text_pair": pair or None}
        if arrays is not None:
            given["arrays"] = _read(arrays)
        elif image:
            given["image"] = [str(item) for item in image]
        else:
            given["text"] = text
        trace = None
        if isinstance(session, FileSession):
            if arrays is None:
                raise InputError(f"{bundle} takes arrays only.", "Give them with --arrays.")
            found, task, classes, segments = session.run(given["arrays"]), "generic", None, set[str]()
        else:
            manifest = session.manifest
            if manifest.program.gates:
                found, trace = session.trace(**given)
            else:
                found = session.run(**given)
            task, classes = manifest.task, manifest.classes
            segments = {segment.name for segment in manifest.program.segments}
    if save is not None:
        with replacing(save) as part, part.open("wb") as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    if json:
        print_json({name: array.tolist() for name, array in found.items()})
        return
    for name, array in found.items():
        out().print(f"[bold]{name}[/] {array.dtype}{list(array.shape)}")
        one_each = array.ndim == 1 and len(array) == len(text)
        for index, row in enumerate(array[:, None] if one_each else np.atleast_2d(array)):
            label = f"{text[index]!r}: " if index < len(text) else ""
            out().print(f"  {label}{_row(row)}", soft_wrap=True, markup=False)
        if task == "embedding" and array.ndim == 2 and len(array) > 1:
            _similarities(array, text)
        if task.endswith("classification"):
            for row in array:
                number = int(row.argmax())
                named = classes[number] if classes and number < len(classes) else number
                told = f"  class {named} with probability {_probability(row):.3f}"
                out().print(told, soft_wrap=True, markup=False)
    if trace is not None:
        _ways(trace, segments)


def _ways(trace: Trace, segments: set[str]) -> None:
    out().print("[bold]how far each went[/]")
    for number, way in enumerate(trace.rows, 1):
        through = ", ".join(name for name in way.nodes if name in segments)
        told = f"  {number}: {through}; {way.work:.0%} of the work, {way.milliseconds:.2f} ms"
        out().print(told, soft_wrap=True, markup=False)
    for note in trace.notes:
        out().print(f"  {note}", soft_wrap=True, markup=False)


def _read(path: Path) -> dict[str, Any]:
    import zipfile

    import numpy as np

    from openglm.errors import InputError

    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Check the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole .npz of plain arrays.", "Write it with numpy.savez."
        ) from error


def _row(row: np.ndarray) -> str:
    flat = row.ravel()
    values = ", ".join(f"{value:.4g}" for value in flat[:SHOWN])
    return f"[{values}{', ...' if flat.size > SHOWN else ''}]"


def _similarities(array: np.ndarray, text: list[str]) -> None:
    import numpy as np

    unit = array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    out().print("[bold]similarity[/] (cosine)")
    for one in range(len(array)):
        for other in range(one + 1, len(array)):
            names = f"{one + 1} and {other + 1}"
            if len(text) == 2:
                names = f"{text[0]!r} and {text[1]!r}"
            out().print(f"  {cosines[one, other]:.4f}  {names}", soft_wrap=True, markup=False)


def _probability(row: np.ndarray) -> float:
    import numpy as np

    powers = np.exp(row - row.max())
    return float(powers.max() / powers.sum())
