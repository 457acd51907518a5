"""`openglm export` and `doctor`: a bundle on other engines, and which of them are here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.comparing import DATA, ROUNDS, SAMPLES, SIZES, TIME
from openglm.cli.console import err, listed, out, print_json
from openglm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from openglm.arm.install import Emulation
    from openglm.bundle.manifest import Target
    from openglm.targets.export import Outcome

NOT_ADDED = 4


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="doctor")(doctor)
    app.command(name="export")(export)


def doctor(
    install: str = typer.Option("", help="Set up arm-emulation, by which bundles run on emulated ARM cores."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Which engines are installed, their versions, what each can use here, and how to get the others."""
    if install:
        _install(install, json)
        return
    from openglm.arm.install import installed
    from openglm.device.host import processor_name, usable_cores
    from openglm.runtimes.engine import engines

    processors = {name: each.processors() if each.version else () for name, each in engines().items()}
    if json:
        rows = [
            {
                "name": name,
                "title": each.title,
                "available": each.version is not None,
                "converts": not each.lacking,
                "runs": each.version is not None and each.runs,
                "version": each.version,
                "processors": list(processors[name]),
                "install": each.install,
            }
            for name, each in engines().items()
        ]
        print_json({"engines": rows, "arm_emulation": _emulation(installed())})
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("engine", "name", "version", "runs on"):
        table.add_column(column, overflow="fold")
    for name, each in engines().items():
        table.add_row(
            f"{'[green]✓[/]' if each.version else '[dim]–[/]'} {each.title}",
            name,
            each.version or "",
            ", ".join(processors[name]) if each.runs or not each.version else "not here: it converts only",
        )
    out().print(table)
    out().print(f"\n{_emulated(installed())}", soft_wrap=True)
    for each in engines().values():
        if each.lacking:
            told = f"To add {each.title}, or what it converts with: {each.install}"
            out().print(told, soft_wrap=True, markup=False)
    out().print(f"This machine: {processor_name()}, {usable_cores()} cores.", style="dim", soft_wrap=True)


def _install(what: str, json: bool) -> None:
    """Set up ARM emulation."""
    from openglm.arm import install as arm

    if what != arm.NAME:
        raise InputError(f"There is nothing to install that is called '{what}'.", f"Known is: {arm.NAME}.")
    with err().status("looking") as status:
        found, new = arm.install(status.update)
    if json:
        print_json({"arm_emulation": _emulation(found), "new": new})
        return
    out().print("It is set up now." if new else "It was set up before.")
    out().print(_emulated(found), soft_wrap=True)


def _emulated(found: Emulation | None) -> str:
    """Whether ARM emulation is here, in a line."""
    from openglm.arm.cpus import CPUS
    from openglm.arm.install import COMMAND

    if found is None:
        return f"[dim]–[/] ARM emulation: {COMMAND}"
    engine = f"ONNX Runtime {found.packages['onnxruntime']} on {', '.join(CPUS)} (QEMU {found.qemu})"
    return f"[green]✓[/] ARM emulation: {engine}" + (
        f"; no instruction counts: {found.uncounted}" if found.uncounted else ""
    )


def _emulation(found: Emulation | None) -> dict[str, Any]:
    from openglm.arm.cpus import CPUS
    from openglm.arm.install import COMMAND

    state = {"available": found is not None, "cpus": list(CPUS), "install": COMMAND}
    if found is None:
        return state
    return state | found.model_dump(
        mode="json", include={"folder", "python", "packages", "qemu", "uncounted"}
    )


def export(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip."),
    runtime: str = typer.Option(
        ..., "--runtime", "-r", help="Engines, by name (openglm doctor), joined by commas; or all."
    ),
    precision: str | None = typer.Option(
        None, help="What weights are held in: fp32, fp16, int8 or int4; the bundle's own if not given."
    ),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="A new bundle; the engines are added to the old one if not given."
    ),
    sizes: list[str] = SIZES,
    data: str | None = DATA,
    samples: int = SAMPLES,
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = ROUNDS,
    time: float = TIME,
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Add engines to a bundle: convert, compare with the bundle's own answers at once, and measure.

    An engine that cannot take the model, or gives other answers, is left out and says why; the others are
    added. Files of one that does not run on this machine are checked, not run. Exit codes: 0 all were
    added, 2 bad input, 4 at least one was not.

    \b
    Examples:
      openglm export small --runtime mnn,openvino
      openglm export small --runtime all --precision fp16 -o small-fp16
      openglm run small --runtime mnn --text "A cat sat on the mat."
    """
    from openglm.targets.export import export as run

    with err().status("reading") as status:
        outcomes = run(
            bundle,
            listed(runtime),
            precision=precision,  # type: ignore[arg-type]  # checked there
            output=output,
            sizes=parse_sizes(sizes),
            data=data,
            samples=samples,
            threads=threads,
            rounds=rounds,
            seconds=time,
            progress=status.update,
        )
    if json:
        print_json({"bundle": str(output or bundle), "engines": [told(item) for item in outcomes]})
    else:
        show(outcomes)
        if any(item.target for item in outcomes[1:]):
            out().print(f"They are in {output or bundle}.", markup=False)
    if any(item.target is None for item in outcomes):
        raise typer.Exit(NOT_ADDED)


def parse_sizes(given: Sequence[str]) -> dict[str, list[int]]:
    """Sizes by dimension; raises `InputError` for what is written otherwise."""
    found = {}
    for item in given:
        name, _, values = item.partition("=")
        try:
            found[name.strip()] = [int(value) for value in values.split(",")]
        except ValueError:
            found = {}
        if not name.strip() or min(found.get(name.strip()) or [0]) < 1:
            raise InputError(f"'{item}' gives no sizes.", "Write them as sequence=16,64.")
    return found


def told(item: Outcome) -> dict[str, Any]:
    """An outcome for a program."""
    measured = {} if item.target is None else item.target.model_dump(mode="json")
    return {
        "engine": item.engine,
        "precision": item.precision,
        "ok": item.target is not None,
        "reason": item.reason,
        **measured,
    }


def _notes(target: Target) -> Iterator[str]:
    if not target.ran:
        yield f"{target.engine} does not run on this machine: its files were checked, not run."
    for place, operators in target.elsewhere.items():
        yield f"{target.engine}, in {place}: {', '.join(operators)}."


def show(outcomes: Sequence[Outcome]) -> None:
    """Outcomes, the first for each number of threads that of the model's own engine, as a table; what failed
    below it."""
    from rich.markup import escape
    from rich.table import Table

    good = [item.target for item in outcomes if item.target is not None]
    judged = good[0].quality if good else None
    gated = any(target.same_way is not None for target in good)
    counts = list(dict.fromkeys(target.host.threads for target in good))
    several = len(counts) > 1
    table = Table(box=None, padding=(0, 1 if gated or several else 2, 0, 0), pad_edge=False)
    table.add_column("engine", no_wrap=True)
    if several:
        table.add_column("threads", justify="right")
    for column in ("size", "load", "latency", "speed", "memory", "differs", "cosine"):
        table.add_column(column, justify="right")
    if gated:
        table.add_column("same way", justify="right")
    if judged:
        table.add_column(judged.metric, justify="right")
    for target in good:
        timing = target.timing
        latency = "" if timing is None else f"{timing.median_ms:.3g} ms"
        table.add_row(
            f"[green]✓[/] {target.engine} {target.precision}",
            *([str(target.host.threads)] if several else []),
            f"{target.size_bytes / 1e6:.3g} MB",
            "" if target.load_ms is None else f"{target.load_ms:.0f} ms",
            latency if target.ran else "–",
            "" if target.speedup is None else f"{target.speedup:.2f}x",
            "" if target.peak_memory_mb is None else f"{target.peak_memory_mb:.0f} MB",
            "" if target.difference is None else f"{target.difference:.2g}",
            "" if target.cosine is None else f"{target.cosine:.4f}",
            *(["" if target.same_way is None else f"{target.same_way:.0%}"] if gated else []),
            *([f"{target.quality.value:.4f}"] if judged and target.quality else []),
        )
    if good:
        out().print(table)
        noun = "thread" if counts == [1] else "threads"
        out().print(
            f"\nSpeed is to {good[0].engine}, in interleaved rounds; differences are to its answers, over "
            f"{good[0].samples} inputs. Measured on {good[0].host.processor}, "
            f"{' and '.join(map(str, counts))} {noun}.",
            style="dim",
            soft_wrap=True,
        )
    for note in dict.fromkeys(note for target in good for note in _notes(target)):
        out().print(note, style="dim", soft_wrap=True, markup=False)
    failed = (item for item in outcomes if item.target is None)
    for told in dict.fromkeys(f"{item.engine} {item.precision}: {escape(item.reason)}" for item in failed):
        out().print(f"[red]✗[/] {told}", soft_wrap=True)
