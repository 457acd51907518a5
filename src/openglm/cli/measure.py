"""`openglm verify`, `compare` and `explain`: what bundles are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from openglm.bundle.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="verify")(verify)
    app.command(name="compare")(compare)
    app.command(name="explain")(explain)


def verify(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Check a bundle: every file's hash, that it loads, and that it still gives the recorded outputs.

    Exit codes: 0 all as recorded, 2 no bundle, 4 changed, incomplete or giving other outputs.
    """
    from openglm.runtimes.session import load

    with load(bundle) as session:
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


def compare(
    one: str = typer.Argument(..., metavar="A", help="A bundle, or anything that MODEL takes elsewhere."),
    other: str = typer.Argument(..., metavar="B", help="Another one."),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = typer.Option(25, min=5, help="Rounds; in each, both run once."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Measure two models or bundles against each other: size, latency, memory, and how far outputs agree.

    \b
    Example:
      openglm compare all-minilm-l6-v2 small
    """
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


def explain(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip."),
    json: bool = typer.Option(False, "--json", help="Print the whole manifest as JSON."),
) -> None:
    """Say what was done to a model, what each step was measured to do, and what was refused and why."""
    from openglm.bundle.store import opened
    from openglm.errors import VerificationError

    with opened(bundle) as (_, manifest):
        pass
    if json:
        print_json(manifest.model_dump(mode="json"))
        return
    try:
        _explain(manifest)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise VerificationError(
            f"The manifest of {bundle} lacks or mangles what it was made with ({error}).",
            "Copy the bundle again, or make it again.",
        ) from error


def _explain(manifest: Manifest) -> None:
    from rich.markup import escape
    from rich.table import Table

    before, after = manifest.before, manifest.after
    device = escape(str(manifest.device["name"]))
    out().print(
        f"[bold]{escape(manifest.name)}[/] for {device}, "
        f"made {manifest.created} by openglm {manifest.openglm}"
    )
    out().print(f"  {escape(manifest.command)}\n", style="dim", soft_wrap=True)
    for when, verdict in (("before", manifest.verdict_before), ("after", manifest.verdict_after)):
        mark = "[green]fits[/]" if verdict["fits"] else "[red]does not fit[/]"
        out().print(
            f"Predicted for {device}, {when}: {mark}. {escape(str(verdict['advice']))}", soft_wrap=True
        )
    host = manifest.host
    threads = f"{host.threads} thread{'s' if host.threads > 1 else ''}"
    out().print(f"\nMeasured on {escape(host.processor)}, {escape(host.engine)}, {threads}:")
    out().print(f"  size      {before.size_bytes / 1e6:.1f} MB -> {after.size_bytes / 1e6:.1f} MB")
    out().print(
        f"  latency   {before.timing.median_ms:.2f} ms -> {after.timing.median_ms:.2f} ms "
        f"({manifest.speedup:.2f}x)"
    )
    if before.peak_memory_mb and after.peak_memory_mb:
        out().print(f"  memory    {before.peak_memory_mb:.1f} MB -> {after.peak_memory_mb:.1f} MB")
    out().print(
        f"  {after.quality.metric:9} {before.quality.value:.4f} -> {after.quality.value:.4f}, "
        f"{after.quality.samples} samples"
    )
    out().print(f"  data      {escape(manifest.calibration)}\n", soft_wrap=True)
    table = Table(
        title="What was tried", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False
    )
    for column in ("outcome", "recipe", "why"):
        table.add_column(column, overflow="fold")
    colours = {"chosen": "bold green", "accepted": "green", "refused": "red", "failed": "red"}
    for item in manifest.candidates:
        table.add_row(
            f"[{colours.get(item.outcome, 'dim')}]{item.outcome}[/]", escape(item.code), escape(item.reason)
        )
    out().print(table)
    costly = [layer for layer in manifest.layers if layer["phase"] == "after"][:5]
    if costly:
        out().print(f"\nCostliest layers now, predicted for {device}:")
        for layer in costly:
            out().print(f"  {layer['ms']:8.3f} ms  {escape(_layer(layer))}", soft_wrap=True)


def _layer(layer: dict[str, Any]) -> str:
    return f"{layer['name']} ({layer['op_type']}, {layer['precision']}), limited by {layer['bound']}"
