"""`openglm plan`: a model's tensors in one arena, every address known before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.cli.console import out, parse_seconds, print_json
from openglm.errors import InputError, VerificationError

if TYPE_CHECKING:
    import numpy as np

    from openglm.memory.plan import Plan
    from openglm.model.analysis.inference import TensorInfo
    from openglm.model.model import Model

ROWS, COLUMNS = 16, 64
"""Of the drawing: addresses and time."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LARGEST = 8
"""Tensors in the table."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="plan")(plan)


def plan(
    model: str = typer.Argument(..., help="A model, as elsewhere, or a bundle."),
    order: str = typer.Option(
        "given", help="given, or best: the operators' order is changed where that needs less."
    ),
    align: int | None = typer.Option(
        None, help="Bytes that offsets are multiples of; 64 if not given, 16 for a .tflite file."
    ),
    arena_kb: float | None = typer.Option(
        None, min=0, help="Most kilobytes (of 1000 bytes); the first plan that fits is taken."
    ),
    time: str = typer.Option("10s", help="Most time for planning: 0.5s, 10s, 2m."),
    double_buffer: bool = typer.Option(
        False,
        "--double-buffer",
        help="Two places for each input and output: one is filled as one is computed.",
    ),
    in_place: bool = typer.Option(
        True, "--in-place/--no-in-place", help="Whether elementwise operators may write over an input."
    ),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    segment: str | None = typer.Option(None, help="Of a bundle with several graphs, the one to plan."),
    check: bool = typer.Option(
        False, "--check", help="Run the model inside the arena, with guard bytes, and compare."
    ),
    header: Path | None = typer.Option(None, help="Write a C header of offsets."),
    tflite: Path | None = typer.Option(
        None, help="Of a .tflite MODEL, write a copy that carries the plan for TFLite Micro."
    ),
    picture: Path | None = typer.Option(None, help="Write a picture, time against address, as .svg."),
    json: bool = typer.Option(False, "--json", help="Print the plan as JSON, every offset in it."),
) -> None:
    """Plan MODEL's tensors in one arena: what memory it needs is known before it runs.

    Constants stay where the file has them. The plan is at least the most bytes alive at once, and is proven
    lowest where it is equal to that.

    \b
    Examples:
      openglm plan all-minilm-l6-v2 --shape sequence=64
      openglm plan net.onnx --order best --picture plan.svg --header plan.h
      openglm plan small --arena-kb 512 --check
      openglm plan wake.tflite --tflite wake_planned.tflite
    """
    from openglm.memory import plan as plans
    from openglm.memory import tflite_micro
    from openglm.model.analysis.shapes import parse_dims
    from openglm.report import units

    if order not in ("given", "best"):
        raise InputError(f"There is no order '{order}'.", "Choose given or best.")
    room = None if arena_kb is None else int(arena_kb * 1000)
    dims, seconds = parse_dims(shape), parse_seconds(time)
    differs = None
    if model.lower().endswith(".tflite"):
        if order == "best" or double_buffer or check or dims or segment:
            raise InputError(
                "A .tflite file is planned as it stands, in its order and with its shapes.",
                "Leave --order, --double-buffer, --check, --shape and --segment out.",
            )
        aligned = tflite_micro.ALIGN if align is None else align
        planned = tflite_micro.plan(Path(model), align=aligned, arena_bytes=room, seconds=seconds)
    else:
        if tflite is not None:
            raise InputError(f"{model} is not a .tflite file.", "Give one, or leave --tflite out.")
        with _opened(model, segment, dims) as (loaded, dims):
            planned = plans.plan(
                loaded,
                dims=dims,
                order=order,  # type: ignore[arg-type]  # looked at above
                align=64 if align is None else align,
                arena_bytes=room,
                seconds=seconds,
                in_place=in_place,
                double_buffer=double_buffer,
            )
            differs = _checked(loaded, dims, planned) if check else None
    _write(planned, Path(model), header, tflite, picture)
    if json:
        print_json(planned.model_dump(mode="json") | ({"difference": differs} if check else {}))
        return
    show(planned)
    if differs is not None:
        out().print(
            "Run inside the arena with guard bytes: the same outputs, bit for bit, as with memory of its own "
            f"for each tensor; ONNX Runtime's differ by {differs:.1e} of the largest.",
        )
    for path in (header, tflite, picture):
        if path is not None:
            out().print(f"Written: {path} ({units.size(path.stat().st_size)})", soft_wrap=True)


@contextmanager
def _opened(source: str, segment: str | None, dims: dict[str, int]) -> Iterator[tuple[Model, dict[str, int]]]:
    """The model to plan, and sizes for its dimensions: a bundle's own where none are given."""
    from openglm.bundle.store import is_bundle, opened
    from openglm.memory import bundled
    from openglm.model.auto import AutoModel

    if not is_bundle(Path(source)):
        if segment is not None:
            raise InputError(f"{source} is not a bundle, and has no segments.", "Leave --segment out.")
        yield AutoModel.from_pretrained(source), dims
        return
    with opened(Path(source)) as (folder, manifest):
        found = bundled.models(folder, manifest.program)
        if segment is None and len(found) > 1:
            raise InputError(
                f"{source} has several graphs: {', '.join(found)}.", "Choose one: --segment NAME."
            )
        name = segment or next(iter(found))
        if name not in found:
            raise InputError(f"{source} has no graph '{name}'.", f"It has: {', '.join(found)}.")
        model = found[name]
        model.name = manifest.name if len(found) == 1 else f"{manifest.name} {name}"
        yield model, bundled.own_dims(model, manifest.shape) | dims


def _checked(model: Model, dims: dict[str, int], planned: Plan) -> float:
    """Run two frames, with and without guard bytes; how far ONNX Runtime's outputs are, as a share of the
    largest. Raises `VerificationError` where the arena changes a bit."""
    import tempfile

    import numpy as np

    from openglm.dynamic.session import difference
    from openglm.memory.arena import Arena, guarded
    from openglm.model.analysis.shapes import resolve
    from openglm.model.sources import onnx_file
    from openglm.runtimes.onnxruntime import Runner

    shapes = resolve(model.graph, dims)
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="openglm-") as name:
        path = Path(name) / "model.onnx"
        onnx_file.write(model.graph, path)
        runner = Runner(path, threads=1)
        for plan in (planned, guarded(planned)):
            arena = Arena(model.graph, shapes, plan)
            for seed in (0, 1):
                random = np.random.default_rng(seed)
                feeds = {name: _random(shapes.by_name[name], random) for name in arena.inputs}
                wanted, found, apart = runner.run(feeds), arena.run(feeds), arena.apart(feeds)
                for output, array in apart.items():
                    if not np.array_equal(found[output], array, equal_nan=array.dtype.kind == "f"):
                        raise VerificationError(
                            f"The plan is wrong: inside the arena the output '{output}' is another.",
                            "Do not use this plan; report it with the model.",
                        )
                worst = max(worst, *(difference(found[name], array) for name, array in wanted.items()))
    return worst


def _random(info: TensorInfo, random: np.random.Generator) -> np.ndarray:
    """Numbers for an input: normal ones, or zeros and ones where it takes integers."""
    kind = info.dtype.numpy()
    if kind.kind == "f":
        return random.standard_normal(info.shape).astype(kind)
    return random.integers(0, 2, info.shape).astype(kind)


def _write(
    planned: Plan, source: Path, header: Path | None, tflite: Path | None, picture: Path | None
) -> None:
    from openglm.memory import tflite_micro
    from openglm.memory.c_header import c_header
    from openglm.report import arena
    from openglm.writing import replacing

    if picture is not None and picture.suffix.lower() != ".svg":
        raise InputError(f"A picture cannot be written as {picture.name}.", "Give a name that ends in .svg.")
    for path, text in ((header, c_header), (picture, arena.picture)):
        if path is not None:
            with replacing(path) as part:
                part.write_text(text(planned), encoding="utf-8")
    if tflite is not None:
        tflite_micro.write(source, planned, tflite)


def show(planned: Plan) -> None:
    """Print a plan for people: the figures, a drawing, and the largest tensors."""
    from rich.markup import escape
    from rich.table import Table

    from openglm.report import units

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    over = planned.arena_bytes / planned.lower_bound - 1 if planned.lower_bound else 0.0
    proof = (
        "the least possible in this order"
        if planned.optimal
        else f"{over:.1%} above the lower bound of {planned.lower_bound:,}"
    )
    apart = sum(place.nbytes for place in planned.placements)
    table.add_row("arena", f"{planned.arena_bytes:,} bytes", proof)
    table.add_row("largest first", f"{planned.greedy_bytes:,} bytes", "as TensorFlow Lite plans it")
    table.add_row("nothing shared", f"{apart:,} bytes", f"{len(planned.placements)} pieces of storage")
    if planned.reordered:
        gain = 1 - planned.lower_bound / planned.given_bound
        table.add_row(
            "in the given order", f"{planned.given_bound:,} bytes at least", f"reordered: {gain:.1%} less"
        )
    out().print(
        f"[bold]{escape(planned.name)}[/]: {len(planned.steps)} steps, aligned to {planned.alignment} bytes"
    )
    out().print(table)
    if not planned.arena_bytes:
        return
    letters = _letters(planned)
    out().print()
    for line in drawing(planned, letters):
        out().print(escape(line), no_wrap=True, crop=True)
    out().print()
    largest = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    largest.add_column("")
    largest.add_column("largest", overflow="fold")
    for title in ("bytes", "offset", "steps"):
        largest.add_column(title, justify="right")
    for index, letter in letters.items():
        place = planned.placements[index]
        largest.add_row(
            letter,
            escape(place.name),
            f"{place.nbytes:,}",
            f"{place.offset:,}",
            f"{place.first}-{place.last}",
        )
    out().print(largest)
    out().print(f"Planned in {units.duration(planned.seconds)}.", style="dim")


def _letters(planned: Plan) -> dict[int, str]:
    """A letter for each of the largest tensors, by their place in the plan."""
    order = sorted(range(len(planned.placements)), key=lambda index: -planned.placements[index].nbytes)
    return dict(zip(order[:LARGEST], LETTERS, strict=False))


def drawing(planned: Plan, letters: dict[int, str]) -> list[str]:
    """Time from left to right, addresses from the bottom up; letters are the largest tensors, dots others."""
    steps = max(len(planned.steps), 1)
    columns = min(COLUMNS, steps)
    rows = [[" "] * columns for _ in range(ROWS)]
    for index in sorted(range(len(planned.placements)), key=lambda index: planned.placements[index].nbytes):
        place = planned.placements[index]
        low = place.offset * ROWS // planned.arena_bytes
        high = max(-(-(place.offset + place.nbytes) * ROWS // planned.arena_bytes), low + 1)
        for row in range(low, min(high, ROWS)):
            for column in range(place.first * columns // steps, place.last * columns // steps + 1):
                rows[row][column] = letters.get(index, "·")
    return [f"|{''.join(row)}|" for row in reversed(rows)] + [f"+{'-' * columns}+"]
