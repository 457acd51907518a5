"""`openglm fit`: the verdict, before anything is compressed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.cli.console import figure, out, print_json

if TYPE_CHECKING:
    from openglm.device.fit import Limit, Verdict

DOES_NOT_FIT = 3
"""Exit code."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="fit")(fit)


def fit(
    model: str = typer.Argument(..., help="Zoo name, hub id, folder, .onnx, .tflite or .pt2 file."),
    device: str = typer.Option(
        ..., "--device", "-d", help="Device name (openglm devices), host, a .toml file, or all."
    ),
    latency_ms: float | None = typer.Option(None, help="Most milliseconds an inference may take."),
    memory_mb: float | None = typer.Option(
        None, help="Most memory; what the device leaves an app if not given."
    ),
    size_mb: float | None = typer.Option(None, help="Largest file."),
    energy_mj: float | None = typer.Option(None, help="Most millijoules an inference may take."),
    load_ms: float | None = typer.Option(None, help="Most milliseconds until the model is ready."),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    threads: int | None = typer.Option(None, help="CPU threads; at most 4 if not given."),
    unit: str = typer.Option(
        "cpu", help="What the verdict is for: cpu, gpu, npu, or best. Bundles run on the CPU."
    ),
    sustain: str = typer.Option(
        "", help="For how long it will run: 30m, 1h30m; back to back where no --rate is given."
    ),
    rate: str = typer.Option("", help="How often it has to run: 10/s, 600/min; for 30m if not said."),
    market: Path | None = typer.Option(
        None, help="With --device all: a .csv of device,share; which share of your phones runs it."
    ),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="With --device all: a page with the table and a plot, .html."
    ),
    runtime: str = typer.Option("onnxruntime", help="Engine on an NPU: onnxruntime, litert or qnn."),
    measured: Path | None = typer.Option(
        None, help="CSV file (model,latency_ms) of your own measurements of that unit, to calibrate by."
    ),
    counts: Path | None = typer.Option(
        None, help="Instructions that openglm compare --cpu counted, to predict the CPU's latency from."
    ),
    json: bool = typer.Option(False, "--json", help="Print the verdict as JSON."),
) -> None:
    """Say whether MODEL fits a device: latency, memory, size, energy and load time, and what limits each.

    Nothing is run or measured: every figure is predicted. Exit codes: 0 fits, 2 bad input, 3 does not fit
    (with --device all: fits none).

    \b
    Examples:
      openglm fit all-minilm-l6-v2 -d cortex-a53-2gb --latency-ms 60
      openglm fit model.onnx -d snapdragon-8-gen-3 --sustain 30m --rate 10/s
      openglm fit model.onnx -d snapdragon-8-elite --unit npu --runtime qnn
      openglm fit model.onnx -d cortex-a53-2gb --counts counts.json
      openglm fit model.onnx -d all --latency-ms 100 --market phones.csv -o phones.html
    """
    from openglm.device import fit as verdicts
    from openglm.model.analysis.shapes import parse_dims

    budget = verdicts.Budget(
        latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, energy_mj=energy_mj, load_ms=load_ms
    )
    load = verdicts.Load.parse(sustain, rate) if sustain or rate else None
    dims = parse_dims(shape)
    if device == "all":
        if measured or counts:
            raise typer.BadParameter("--measured and --counts are of one device, and not for --device all.")
        from openglm.cli import phones
        from openglm.device.market import read_market, survey

        shares = read_market(market) if market else None
        found = survey(
            model,
            shares,
            budget,
            dims=dims,
            threads=threads,
            unit=unit,  # type: ignore[arg-type]
            load=load,
            runtime=runtime,  # type: ignore[arg-type]
        )
        phones.tell(found, output, json)
        if not found.running:
            raise typer.Exit(DOES_NOT_FIT)
        return
    if market or output:
        raise typer.BadParameter("--market and --output are for --device all.")
    verdict = verdicts.fit(
        model,
        device,
        budget,
        dims=dims,
        threads=threads,
        unit=unit,  # type: ignore[arg-type]
        runtime=runtime,  # type: ignore[arg-type]
        measured=measured,
        counts=counts,
        load=load,
    )
    if json:
        print_json(verdict.to_json())
    else:
        show(verdict)
    if not verdict.fits:
        raise typer.Exit(DOES_NOT_FIT)


def show(verdict: Verdict) -> None:
    """Print a verdict for people."""
    from rich.markup import escape
    from rich.panel import Panel
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("", "", "predicted", "budget"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    table.add_column("what limits it", overflow="fold")
    for limit in verdict.limits:
        colour = "green" if limit.ok else "red"
        least = "at least " if limit.name == "rate" else ""
        budget = "-" if limit.budget is None else f"{least}{figure(limit.budget)} {limit.unit}"
        mark = " " if limit.budget is None else "✓" if limit.ok else "✗"
        table.add_row(
            f"[{colour}]{mark}[/]", limit.name, f"[{colour}]{_value(limit)}[/]", budget, escape(limit.bound)
        )
    if verdict.fits:
        title, colour = f"{escape(verdict.model)} fits {verdict.device}", "green"
    else:
        title, colour = f"{escape(verdict.model)} does not fit {verdict.device}", "red"
    out().print(
        Panel(escape(verdict.advice), title=f"[bold {colour}]{title}[/]", border_style=colour, expand=False)
    )
    out().print(table)
    out().print()
    if verdict.sustained:
        from openglm.cli import sustained

        sustained.show(verdict.sustained)
    for line in _notes(verdict):
        out().print(escape(line), style="dim")


def _notes(verdict: Verdict) -> list[str]:
    """What the figures hold for, a line each."""
    sizes = ", ".join(f"{name} {size}" for name, size in verdict.dims.items())
    threads = f"{verdict.threads} thread{'s' if verdict.threads != 1 else ''}"
    rate = verdict.rate
    lines = [
        *_latency_notes(verdict),
        f"For {sizes or 'fixed shapes'}; unit {verdict.unit}, {threads}.",
        f"Back to back: {figure(rate.burst_per_s)} a second cool, {figure(rate.sustained_per_s)} sustained"
        + (f"; {verdict.inferences_per_charge:,} on a charge." if verdict.inferences_per_charge else "."),
    ]
    if tokens := verdict.tokens_per_s:
        kv = (
            f", {tokens.kv_bytes_per_token / 1000:.0f} KB of cache a token"
            if tokens.kv_bytes_per_token
            else ""
        )
        read, written = figure(tokens.prefill_per_s), figure(tokens.decode_per_s)
        lines.append(f"Tokens a second: {read} read, {written} written{kv}.")
    others = [unit for unit in verdict.units if unit.name != verdict.unit]
    if others:
        told = [
            f"{unit.name} "
            + ("cannot (precision)" if unit.latency_ms is None else f"{figure(unit.latency_ms)} ms")
            for unit in others
        ]
        lines.append(f"Other units, for information: {', '.join(told)}.")
    if verdict.unknown_operators:
        lines.append(f"Unknown operators, counted by their bytes: {', '.join(verdict.unknown_operators)}.")
    lines.append(verdict.predicted_by[0].upper() + verdict.predicted_by[1:] + ".")
    return lines


def _latency_notes(verdict: Verdict) -> list[str]:
    """How far the latency may be off, and what will not run where it is wanted."""
    lines = []
    if verdict.latency_interval:
        low, high = (figure(end) for end in verdict.latency_interval)
        limit = verdict.limit("latency")
        inside = limit.budget and verdict.latency_interval[0] < limit.budget < verdict.latency_interval[1]
        told = "; the budget lies between, so measure before you rely on it" if inside else ""
        lines.append(f"Latency {figure(limit.predicted)} ms, 90 % between {low} and {high}{told}.")
    if verdict.not_on_npu:
        named = ", ".join(f"{count} {op_type}" for op_type, count in verdict.not_on_npu.items())
        lines.append(f"Not on the NPU in {verdict.runtime}: {named}.")
    return lines


def _value(limit: Limit) -> str:
    return f"{figure(limit.predicted)} {limit.unit}"
