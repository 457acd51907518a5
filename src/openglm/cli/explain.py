"""`openglm explain`: what was done to a model, as the manifest of its bundle says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import out, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from openglm.bundle.manifest import Candidate, Manifest

MOST = 10
"""Rows of a list, unless all of it is asked for."""
FEW = 5
"""Rows of the front and of parts where there are more than `MOST`."""
MISSES = 4
"""Candidates that are told of there."""
WIDE = 72
"""Columns of a terminal that have room for a table of costs."""
COLOURS = {"chosen": "bold green", "accepted": "green", "refused": "red", "failed": "red"}


def explain(
    bundle: Path = typer.Argument(..., help="A bundle: a folder or a .zip."),
    every: bool = typer.Option(False, "--all", help="Cut no list short."),
    json: bool = typer.Option(
        False,
        "--json",
        help="Print the whole manifest as JSON, with the front (places in candidates) and the time spent.",
    ),
) -> None:
    """Say what was done to a model, what each step was measured to do, and what was refused and why.

    The front is what else could be had: candidates that no other beats in speed, size and quality at
    once. Sensitivity is what quantizing or cutting one part alone costs.
    """
    from openglm.bundle.store import opened
    from openglm.errors import VerificationError
    from openglm.report.front import front
    from openglm.report.spending import spent

    with opened(bundle) as (_, manifest):
        pass
    if json:
        found = {"front": front(manifest.candidates), "spent": spent(manifest)}
        print_json(manifest.model_dump(mode="json") | found)
        return
    try:
        _head(manifest)
        _figures(manifest)
        _ways(manifest)
        _front(manifest, every)
        _tried(manifest, every)
        _time(manifest)
        _sensitivity(manifest, every)
        _costliest(manifest)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise VerificationError(
            f"The manifest of {bundle} lacks or mangles what it was made with ({error}).",
            "Copy the bundle again, or make it again.",
        ) from error


def _head(manifest: Manifest) -> None:
    from rich.markup import escape

    device = escape(str(manifest.device["name"]))
    out().print(
        f"[bold]{escape(manifest.name)}[/] for {device}, "
        f"made {escape(manifest.created)} by openglm {escape(manifest.openglm)}"
    )
    out().print(f"  {escape(manifest.command)}\n", style="dim", soft_wrap=True)
    for when, verdict in (("before", manifest.verdict_before), ("after", manifest.verdict_after)):
        mark = "[green]fits[/]" if verdict["fits"] else "[red]does not fit[/]"
        out().print(
            f"Predicted for {device}, {when}: {mark}. {escape(str(verdict['advice']))}", soft_wrap=True
        )


def _figures(manifest: Manifest) -> None:
    from rich.markup import escape

    before, after, host = manifest.before, manifest.after, manifest.host
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
        f"  {escape(after.quality.metric):9} {before.quality.value:.4f} -> {after.quality.value:.4f}, "
        f"{after.quality.samples} samples"
    )
    out().print(f"  data      {escape(manifest.calibration)}", soft_wrap=True)
    if manifest.training:
        out().print(f"  training  {escape(manifest.training)}", soft_wrap=True)


def _ways(manifest: Manifest) -> None:
    from openglm.report.units import percent
    from openglm.report.ways import again, average, says

    if not manifest.program.gates:
        return
    out().print("\nWays through it", style="italic")
    gates = {gate.name: gate for gate in manifest.program.gates}
    work = {segment.name: segment.work for segment in manifest.program.segments}
    for name in manifest.program.order:
        told = says(gates[name]) if name in gates else f"a graph, {percent(work[name])} of the work"
        out().print(f"  {name}: {told}", soft_wrap=True, markup=False)
    if said := average(manifest):
        out().print(f"  {_plain(said)}", soft_wrap=True, markup=False)
    for record in manifest.recalibrated:
        told = f"  Thresholds were set again, {record.created}, {again(record)}"
        out().print(told, soft_wrap=True, markup=False)


def _front(manifest: Manifest, every: bool) -> None:
    from rich.markup import escape

    from openglm.report.front import front, lost
    from openglm.report.story import trained

    places = front(manifest.candidates)
    if len(places) < 2:
        return
    many = len(places) > MOST and not every
    chosen = [place for place in places[FEW:] if manifest.candidates[place].outcome == "chosen"]
    shown = [*places[:FEW], *chosen] if many else places
    out().print("\nThe front: what else could be had", style="italic")
    for place in shown:
        item = manifest.candidates[place]
        figures = [f"{item.speedup:.2f}x", f"{(item.size_bytes or 0) / 1e6:.1f} MB"]
        loss = f"{lost(item, manifest)} lost" if item.recipe else "the original"
        said = [f"{figures[0]:>6} {figures[1]:>9}  {loss}", *filter(None, [trained(item)])]
        _entry(place + 1, item, escape(", ".join(said)))
    _rest(len(places) - len(shown))


def _entry(number: int, item: Candidate, said: str) -> None:
    """A candidate in two lines, so that long codes can be read on narrow terminals too."""
    from rich.markup import escape
    from rich.table import Table

    style = COLOURS.get(item.outcome, "dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", width=4)
    grid.add_column(overflow="fold")
    grid.add_row(str(number), f"[{style}]{item.outcome:8}[/] {said}\n{escape(item.code)}")
    out().print(grid)


def _tried(manifest: Manifest, every: bool) -> None:
    from rich.markup import escape

    many = len(manifest.candidates) > MOST and not every
    numbered = list(enumerate(manifest.candidates, 1))
    shown = sorted(numbered, key=_promise)[:MISSES] if many else numbered
    outcomes = [item.outcome for item in manifest.candidates]
    counts = [f"{outcomes.count(name)} {name}" for name in dict.fromkeys(outcomes)]
    title = f"What was tried: {', '.join(counts)}"
    if many:
        out().print(f"\n{title}; the one chosen and the nearest misses", style="italic")
        for number, item in shown:
            _entry(number, item, escape(item.reason))
        _rest(len(numbered) - len(shown))
        return
    table = _columns(title, "", "outcome", "recipe", "why")
    for number, item in shown:
        style = COLOURS.get(item.outcome, "dim")
        table.add_row(str(number), f"[{style}]{item.outcome}[/]", escape(item.code), escape(item.reason))
    out().print()
    out().print(table)


def _promise(pair: tuple[int, Candidate]) -> tuple[int, float, int]:
    """The chosen one first, then those refused, which lost least before others: the nearest misses."""
    number, item = pair
    rank = {"chosen": 0, "refused": 1}.get(item.outcome, 2)
    return rank, item.loss if rank == 1 and item.loss is not None else float("inf"), number


def _time(manifest: Manifest) -> None:
    from rich.markup import escape

    from openglm.report.spending import sentences

    if said := sentences(manifest):
        out().print(f"\nThe search's time: {escape(_plain(' '.join(said)))}")


def _sensitivity(manifest: Manifest, every: bool) -> None:
    from rich.markup import escape

    from openglm.report.sensitivity import cost, parts, ranked, sentences, techniques

    found = parts(manifest.sensitivities)
    if not found:
        return
    out().print(f"\nSensitivity: {escape(_plain(' '.join(sentences(found))))}")
    many = len(found) > MOST and not every
    shown = ranked(found)[:FEW] if many else found
    names = techniques(shown)
    title = "Fidelity lost, each on one part alone" + ("; the tenderest first" if many else "")
    if out().width < WIDE:
        out().print(title, style="italic")
        for part in shown:
            costs = ", ".join(f"{name} {cost(part.costs[name])}" for name in names if name in part.costs)
            out().print(f"{escape(part.name)}: {escape(costs)}")
    else:
        table = _columns(title, "part", *map(escape, names))
        for part in shown:
            figures = (cost(part.costs[name]) if name in part.costs else "" for name in names)
            table.add_row(escape(part.name), *figures)
        out().print(table)
    _rest(len(found) - len(shown))


def _costliest(manifest: Manifest) -> None:
    from rich.markup import escape

    costly = [layer for layer in manifest.layers if layer["phase"] == "after"][:FEW]
    if costly:
        out().print(f"\nCostliest layers now, predicted for {escape(str(manifest.device['name']))}:")
        for layer in costly:
            out().print(f"  {layer['ms']:8.3f} ms  {escape(_layer(layer))}", soft_wrap=True)


def _layer(layer: dict[str, Any]) -> str:
    return f"{layer['name']} ({layer['op_type']}, {layer['precision']}), limited by {layer['bound']}"


def _columns(title: str, *names: str) -> Table:
    """A table without rules; words fold where it is too wide, figures stand to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    words: Sequence[str] = ("recipe", "why", "outcome", "part")
    for name in names:
        table.add_column(name, overflow="fold", justify="left" if name in words else "right")
    return table


def _rest(hidden: int) -> None:
    if hidden:
        out().print(f"and {hidden} more; --all shows them", style="dim")


def _plain(text: str) -> str:
    """A sentence of the report without its typography, which not every terminal has."""
    from openglm.report.units import NBSP, THIN

    return text.replace(NBSP, " ").replace(THIN, "").replace("’", "'").replace("−", "-")
