"""`openglm fit --device all`: one model on every device, and the share of a market that runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openglm.cli.console import command_line, err, figure, out, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from openglm.device.market import Entry, Survey


def tell(found: Survey, output: Path | None, json: bool) -> None:
    """Print a survey, and write its page where one is wanted."""
    if output is not None:
        from openglm.report.phones import render
        from openglm.writing import replacing

        with replacing(output) as part:
            part.write_text(render(found, command_line()), encoding="utf-8")
    if json:
        print_json(found.to_json())
    else:
        _show(found)
    if output is not None:
        err().print(f"Written: {output}", markup=False, soft_wrap=True)


def _show(found: Survey) -> None:
    from rich.markup import escape
    from rich.table import Table

    other = f"; of {found.unknown:.0%} nothing is known" if found.unknown else ""
    out().print(f"[bold]{escape(found.headline)}{other}.[/]\n", soft_wrap=True)
    load = any(entry.verdict and entry.verdict.sustained for entry in found.entries)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("device", no_wrap=True)
    headings = ["fits", "latency\nms", "memory\nMB", "energy\nmJ", "held\na second"]
    for heading in [
        *headings,
        *(["throttles\nafter"] if load else []),
        *(["share"] if found.weighted else []),
    ]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("misses", overflow="fold", min_width=13)
    for entry in found.entries:
        table.add_row(*_row(entry, found.weighted))
    out().print(table)
    out().print()
    if known := [entry.verdict for entry in found.entries if entry.verdict]:
        sizes = ", ".join(f"{name} {size}" for name, size in known[0].dims.items())
        out().print(f"For {escape(sizes) or 'fixed shapes'}. Every figure is predicted.", style="dim")


def _row(entry: Entry, weighted: bool) -> list[str]:
    from rich.markup import escape

    from openglm.cli.sustained import time

    mark = "[green]✓[/]" if entry.fits else "[red]✗[/]"
    share = [f"{entry.share:.1%}"] if weighted else []
    verdict = entry.verdict
    if verdict is None:
        return [entry.device.name, mark, *["-"] * 4, *share, escape(entry.reason)]
    sustained = verdict.sustained
    held = sustained.most_per_s if sustained else verdict.rate.sustained_per_s
    if sustained is None:
        third = figure(verdict.limit("energy").predicted)
    else:
        third = "-" if sustained.throttles_after_s is None else time(sustained.throttles_after_s)
    return [
        entry.device.name,
        mark,
        figure(verdict.limit("latency").predicted),
        figure(verdict.limit("memory").predicted),
        third,
        figure(held),
        *share,
        escape(entry.reason),
    ]
