"""`openglm verify` and `compare`, with `explain`: what bundles are worth."""

from __future__ import annotations

from pathlib import Path

import typer

from openglm.cli.console import err, listed, out, print_json
from openglm.cli.explain import explain
from openglm.errors import InputError


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="verify")(verify)
    app.command(name="compare")(compare)
    app.command(name="explain")(explain)


def verify(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip; or a .tflite file."),
    runtime: str = typer.Option("onnxruntime", help="The engine; another that the bundle was exported for."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Check a bundle: every file's hash, that it loads, and that it still gives the recorded outputs.

    A .tflite file has no record: it must be whole, load in LiteRT, and give finite outputs for random inputs,
    the same twice, and with one thread and two.

    Exit codes: 0 all as recorded, 2 no bundle, 4 changed, incomplete or giving other outputs.
    """
    from openglm.dynamic.session import load
    from openglm.model.sources import tflite_file

    if tflite_file.matches(str(bundle)):
        _verify_file(bundle, json)
        return
    with load(bundle, runtime=runtime) as session:
        worst = session.verify()
        manifest = session.manifest
    if json:
        print_json({"bundle": str(bundle), "ok": True, "files": len(manifest.files), "difference": worst})
        return
    exactly = (
        "exactly the recorded outputs"
        if worst == 0
        else f"the recorded outputs to {worst:.2g} of their range"
    )
    out().print(f"[green]✓[/] {len(manifest.files)} files as their hashes say, loaded, {exactly}.")


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
    one: str = typer.Argument(..., metavar="A", help="A bundle, or anything that MODEL takes elsewhere."),
    other: str | None = typer.Argument(None, metavar="[B]", help="Another one."),
    runtimes: str = typer.Option(
        "", help="Instead of B: A is a bundle, and these of its engines, joined by commas, or all."
    ),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = typer.Option(25, min=5, help="Rounds; in each, both run once."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Measure two models or bundles against each other: size, latency, memory, and how far outputs agree.

    \b
    Examples:
      openglm compare all-minilm-l6-v2 small
      openglm compare small --runtimes all
    """
    if (other is None) == (not runtimes):
        raise InputError("There is nothing, or too much, to compare with.", "Give B, or --runtimes.")
    if other is None:
        _engines(one, runtimes, shape, threads, rounds, json)
        return
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
