"""`openglm verify` and `compare`, with `explain`: what bundles are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.arm.cpus import CPUS
from openglm.cli.console import err, listed, out, print_json
from openglm.cli.explain import explain
from openglm.errors import InputError

if TYPE_CHECKING:
    from openglm.arm.compare import Comparison
    from openglm.bundle.manifest import Manifest

COUNTS = typer.Option(
    None, help="With --cpu: write the instructions that it takes to this file, for openglm fit --counts."
)
COUNT_ON = "Give --cpu, or leave out --counts."


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="verify")(verify)
    app.command(name="compare")(compare)
    app.command(name="explain")(explain)


def verify(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip; or a .tflite file."),
    runtime: str = typer.Option(
        "onnxruntime",
        help="The engine; another that the bundle was exported for, or a processor: onnxruntime:xnnpack.",
    ),
    cpu: str = typer.Option("", help=f"Run it on an emulated ARM processor instead: {', '.join(CPUS)}."),
    counts: Path | None = COUNTS,
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Check a bundle: every file's hash, that it loads, and that it still gives the recorded outputs.

    A .tflite file has no record: it must be whole, load in LiteRT, and give finite outputs for random inputs,
    the same twice, and with one thread and two.

    Exit codes: 0 all as recorded, 2 no bundle, 4 changed, incomplete or giving other outputs.
    """
    if cpu:
        _verify_on_arm(bundle, runtime, cpu, counts, json)
        return
    if counts:
        raise InputError("Instructions are counted on an emulated processor.", COUNT_ON)
    from openglm.dynamic.session import load
    from openglm.model.sources import tflite_file

    if tflite_file.matches(str(bundle)):
        _verify_file(bundle, json)
        return
    with load(bundle, runtime=runtime) as session:
        worst = session.verify()
        manifest = session.manifest
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "ok": True,
                "files": len(manifest.files),
                "difference": worst,
                "rounding": manifest.rounding,
            }
        )
        return
    out().print(
        f"[green]✓[/] {len(manifest.files)} files as their hashes say, loaded, {_outputs(worst, manifest)}.",
        soft_wrap=True,
    )


def _outputs(difference: float, manifest: Manifest) -> str:
    if difference == 0:
        return "exactly the recorded outputs"
    told = f"the recorded outputs to {difference:.2g} of their range"
    if manifest.rounding < difference / 10:
        return told
    return f"{told} (other rounding moves them by {manifest.rounding:.2g})"


def _verify_on_arm(bundle: Path, runtime: str, cpu: str, counts: Path | None, json: bool) -> None:
    from openglm.arm.verify import verify as run
    from openglm.runtimes.onnxruntime import NAME

    if runtime != NAME:
        raise InputError(f"Only {NAME} runs on an emulated processor.", "Leave out --runtime.")
    with err().status("emulating"):
        found, manifest = run(bundle, cpu)
    if counts:
        _write(counts, _counted([str(bundle)], cpu, ""))
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "ok": True,
                "files": len(manifest.files),
                "cpu": cpu,
                "difference": found.difference,
                "rounding": manifest.rounding,
                "identical": found.identical,
            }
        )
        return
    outputs = f"{_outputs(found.difference, manifest)}, {found.identical:.1%} of the values bit for bit"
    if found.identical == 1:
        outputs = "exactly the recorded outputs, bit for bit"
    out().print(
        f"[green]✓[/] {len(manifest.files)} files as their hashes say, loaded, {outputs}.", soft_wrap=True
    )
    out().print(f"Emulated: {CPUS[cpu].title}.", style="dim", soft_wrap=True)


def _verify_file(path: Path, json: bool) -> None:
    from openglm.targets.model_file import verify as check

    found = check(path)
    if json:
        print_json({"file": str(path), "ok": True, **found._asdict()})
        return
    told = f"whole, loaded in LiteRT in {found.load_ms:.0f} ms, {found.outputs} finite outputs"
    out().print(f"[green]✓[/] {told} on {found.samples} random inputs, the same twice,", end=" ")
    worst = "the same" if found.difference == 0 else f"the same to {found.difference:.2g} of their range"
    out().print(f"{worst} with two threads.")


def compare(
    sources: list[str] = typer.Argument(
        ..., metavar="A [B]", help="Bundles, or anything that MODEL takes elsewhere; with --cpu also more."
    ),
    runtimes: str = typer.Option(
        "",
        help="Instead of B: A is a bundle, and these of its engines, joined by commas, or all. Some choose a "
        "processor (openglm doctor): onnxruntime:xnnpack.",
    ),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    cpu: str = typer.Option(
        "", help=f"Count the instructions on an emulated ARM processor instead: {', '.join(CPUS)}."
    ),
    counts: Path | None = COUNTS,
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = typer.Option(25, min=5, help="Rounds; in each, both run once."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Measure two models or bundles against each other: size, latency, memory, and how far outputs agree.

    With --cpu their instructions are counted, which --counts keeps for `openglm fit`; that takes one, too.

    \b
    Examples:
      openglm compare all-minilm-l6-v2 small
      openglm compare small --runtimes all
      openglm compare all-minilm-l6-v2 small --cpu cortex-a53
      openglm compare model.onnx --cpu cortex-a53 --counts counts.json
    """
    if counts and not cpu:
        raise InputError("Instructions are counted on an emulated processor.", COUNT_ON)
    if cpu and not runtimes and (len(sources) > 1 or counts):
        _instructions(sources, cpu, shape, counts, json)
        return
    if cpu or len(sources) > 2 or (len(sources) == 1) == (not runtimes):
        raise InputError("There is nothing, or too much, to compare with.", "Give B, or --runtimes.")
    if runtimes:
        _engines(sources[0], runtimes, shape, threads, rounds, json)
        return
    one, other = sources
    import tempfile

    from rich.markup import escape

    from openglm.model.analysis.shapes import parse_dims
    from openglm.search.comparison import compare as measure

    dims = parse_dims(shape)
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder, err().status("measuring"):
        found = measure(one, other, Path(folder), dims=dims, threads=threads, rounds=rounds)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", escape(one), escape(other), "B / A"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    a, b = found.a, found.b
    table.add_row(
        "size",
        f"{a.size_bytes / 1e6:.2f} MB",
        f"{b.size_bytes / 1e6:.2f} MB",
        f"{b.size_bytes / a.size_bytes:.2f}",
    )
    table.add_row(
        "latency, median",
        f"{a.timing.median_ms:.2f} ms",
        f"{b.timing.median_ms:.2f} ms",
        f"{1 / found.speedup:.2f}",
    )
    table.add_row(
        "latency, p10 - p90",
        f"{a.timing.p10_ms:.2f} - {a.timing.p90_ms:.2f}",
        f"{b.timing.p10_ms:.2f} - {b.timing.p90_ms:.2f}",
        "",
    )
    for name, field in (("load", "load_ms"), ("peak memory", "peak_memory_mb")):
        values = [getattr(side, field) for side in (a, b)]
        if None not in values:
            unit = "ms" if field == "load_ms" else "MB"
            table.add_row(name, *(f"{value:.1f} {unit}" for value in values), f"{values[1] / values[0]:.2f}")
    out().print(table)
    sizes = ", ".join(f"{name} {size}" for name, size in found.shape.items()) or "fixed shapes"
    noun = "thread" if threads == 1 else "threads"
    out().print(
        f"\nB is {found.speedup:.2f}x as fast as A (the median of {a.timing.rounds} interleaved rounds)."
    )
    out().print(
        f"Fidelity of B to A: {found.fidelity:.4f} over {found.samples} inputs ({escape(found.data)}).",
        soft_wrap=True,
    )
    out().print(
        f"Measured on {found.host.processor}, {found.host.engine}, {threads} {noun}, {sizes}.",
        style="dim",
        soft_wrap=True,
    )


def _engines(bundle: str, runtimes: str, shape: str, threads: int, rounds: int, json: bool) -> None:
    """Compare the engines of one bundle."""
    from openglm.cli.export import NOT_ADDED, show, told
    from openglm.targets.export import compare as measure

    if shape:
        raise InputError("Engines are compared at the bundle's own sizes.", "Leave out --shape.")
    with err().status("reading") as status:
        outcomes = measure(bundle, listed(runtimes), threads=threads, rounds=rounds, progress=status.update)
    if json:
        print_json({"bundle": bundle, "engines": [told(item) for item in outcomes]})
    else:
        show(outcomes)
    if any(item.target is None for item in outcomes):
        raise typer.Exit(NOT_ADDED)


def _counted(sources: list[str], cpu: str, shape: str) -> Comparison:
    import tempfile

    from openglm.arm.compare import compare as count
    from openglm.model.analysis.shapes import parse_dims

    dims = parse_dims(shape)
    with tempfile.TemporaryDirectory(prefix="openglm-") as folder, err().status("emulating") as status:
        return count(sources, cpu, Path(folder), dims=dims, progress=status.update)


def _write(counts: Path, found: Comparison) -> None:
    from openglm.device.instructions import write

    write(counts, found.counted())


def _instructions(sources: list[str], cpu: str, shape: str, counts: Path | None, json: bool) -> None:
    """Compare by instructions on an emulated processor."""
    found = _counted(sources, cpu, shape)
    if counts:
        _write(counts, found)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("")
    for column in ("instructions", "to A", "float", "int8", "dot", "matrix"):
        table.add_column(column, justify="right")
    for side in found.sides:
        kinds = (side.floats, side.integers, side.dots, side.matrices)
        millions = (f"{kind / 1e6:.2f} M" if kind else "" for kind in kinds)
        table.add_row(escape(side.name), f"{side.instructions / 1e6:.2f} M", f"{side.ratio:.2f}", *millions)
    out().print(table)
    sizes = ", ".join(f"{name} {size}" for name, size in found.shape.items()) or "fixed shapes"
    mean = f", the mean of {found.inputs} inputs" if found.inputs > 1 else ""
    out().print(
        f"\nInstructions for one inference{mean}, counted on an emulated processor: {CPUS[cpu].title}; "
        "and those of them that multiply vectors, by kind. They are no time.",
        soft_wrap=True,
    )
    out().print(f"{found.engine} for ARM, 1 thread, {sizes}.", style="dim", soft_wrap=True)
