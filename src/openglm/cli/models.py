"""`openglm models` and `openglm inspect`: which models are known, and what one is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import out, print_json

if TYPE_CHECKING:
    import onnx_ir as ir

    from openglm.model.analysis.shapes import Shapes
    from openglm.model.analysis.statistics import Layer, Statistics
    from openglm.model.model import Model

ROWS = 20
"""Rows of the table of layers where no other number is asked for."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="models")(models)
    app.command(name="inspect")(inspect)


def models(json: bool = typer.Option(False, "--json", help="Print the list as JSON.")) -> None:
    """List the models known by name."""
    from openglm.model.sources.zoo import ZOO

    entries: list[dict[str, Any]] = [
        {
            "name": name,
            "title": entry.title,
            "task": entry.task,
            "parameters": entry.parameters,
            "available": entry.available(),
            "install": entry.install,
        }
        for name, entry in sorted(ZOO.items())
    ]
    if json:
        print_json(entries)
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("name", "what it is", "task"):
        table.add_column(title, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("here")
    for entry in entries:
        here = "[green]yes[/]" if entry["available"] else "no"
        table.add_row(
            entry["name"], entry["title"], entry["task"], f"{entry['parameters'] / 1e6:.1f} M", here
        )
    out().print(table)
    for name, known in sorted(ZOO.items()):
        if not known.available():
            out().print(f"To have {name}{known.where}: {known.install}", style="dim", soft_wrap=True)


def inspect(
    model: str = typer.Argument(..., help="Zoo name, hub id, folder, .onnx, .tflite or .pt2 file."),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions: batch=1,sequence=128."),
    layers: int = typer.Option(ROWS, min=1, help="Rows of the table of layers."),
    all_layers: bool = typer.Option(False, "--all-layers", help="Every node by itself."),
    json: bool = typer.Option(False, "--json", help="Print everything as JSON, every node included."),
) -> None:
    """Show what MODEL is made of: parameters, multiply-accumulates, bytes, operators and layers."""
    from openglm.memory.lifetime import peak_activation_bytes
    from openglm.model.analysis.grouping import group
    from openglm.model.analysis.shapes import parse_dims
    from openglm.model.analysis.statistics import analyse
    from openglm.model.auto import AutoModel

    dims = parse_dims(shape)
    loaded = AutoModel.from_pretrained(model)
    statistics = analyse(loaded.graph, dims)
    peak = peak_activation_bytes(statistics.shapes)
    if json:
        print_json(_record(loaded, statistics, peak))
        return
    _summary(loaded, statistics, peak)
    _operators(statistics)
    if all_layers:
        _layers("Layers", [(layer.name, layer.op_type, [layer]) for layer in statistics.layers])
        return
    groups = group(statistics.layers, layers)
    _layers("Layers by module", [(name, f"{len(members)} nodes", members) for name, members in groups])


def _summary(model: Model, statistics: Statistics, peak: int) -> None:
    from rich.markup import escape
    from rich.table import Table

    shapes = statistics.shapes
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    rows = [
        ("model", f"{model.name} ({model.task})"),
        ("parameters", f"{statistics.parameters:,}"),
        ("multiply-accumulates", f"{statistics.macs:,}"),
        ("weights", f"{statistics.weight_bytes / 1e6:.2f} MB"),
        ("file", f"{statistics.file_bytes / 1e6:.2f} MB"),
        ("peak activations", f"{peak / 1e6:.2f} MB"),
        ("inputs", "\n".join(_tensors(shapes.graph.inputs, shapes))),
        ("outputs", "\n".join(_tensors(shapes.graph.outputs, shapes))),
    ]
    if shapes.dims:
        rows.append(("computed for", ", ".join(f"{name} = {size}" for name, size in shapes.dims.items())))
    if shapes.unknown:
        rows.append(("unknown shapes", f"{len(shapes.unknown)}: {', '.join(shapes.unknown[:5])}"))
    if statistics.unknown_operators:
        rows.append(("unknown operators", ", ".join(statistics.unknown_operators)))
    for name, text in rows:
        table.add_row(f"[bold]{name}[/]", escape(text))
    out().print(table)


def _tensors(values: Sequence[ir.Value], shapes: Shapes) -> list[str]:
    lines = []
    for value in values:
        info = shapes.of.get(value)
        lines.append(
            f"{value.name}: {info.dtype.name.lower()}{list(info.shape)}" if info else f"{value.name}: unknown"
        )
    return lines


def _operators(statistics: Statistics) -> None:
    from rich.table import Table

    table = Table(title="Operators", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("type")
    for title in ("nodes", "MACs", "share"):
        table.add_column(title, justify="right")
    for operator in statistics.operators:
        share = f"{operator.share:.1%}" if operator.macs else ""
        table.add_row(operator.op_type, str(operator.count), _count(operator.macs), share)
    out().print()
    out().print(table)


def _layers(title: str, rows: list[tuple[str, str, list[Layer]]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("what")
    for name in ("MACs", "weights", "moved", "precision", "output"):
        table.add_column(name, justify="right")
    for name, what, members in rows:
        heaviest = max(members, key=lambda layer: layer.macs)
        shape = "×".join(map(str, members[-1].shape)) if members[-1].shape is not None else "unknown"
        table.add_row(
            escape(name),
            what,
            _count(sum(layer.macs for layer in members)),
            _bytes(sum(layer.weight_bytes for layer in members)),
            _bytes(sum(layer.read_bytes + layer.write_bytes for layer in members)),
            heaviest.precision,
            shape,
        )
    out().print()
    out().print(table)


def _record(model: Model, statistics: Statistics, peak: int) -> dict[str, Any]:
    from dataclasses import asdict

    shapes = statistics.shapes
    tensors = {
        key: [
            {
                "name": value.name,
                "dtype": shapes.of[value].dtype.name.lower() if value in shapes.of else None,
                "shape": list(shapes.of[value].shape) if value in shapes.of else None,
            }
            for value in values
        ]
        for key, values in (("inputs", shapes.graph.inputs), ("outputs", shapes.graph.outputs))
    }
    return {
        "model": model.name,
        "task": model.task,
        "parameters": statistics.parameters,
        "macs": statistics.macs,
        "weight_bytes": statistics.weight_bytes,
        "file_bytes": statistics.file_bytes,
        "peak_activation_bytes": peak,
        **tensors,
        "dims": shapes.dims,
        "unknown_shapes": list(shapes.unknown),
        "unknown_operators": list(statistics.unknown_operators),
        "operators": [asdict(operator) for operator in statistics.operators],
        "layers": [asdict(layer) for layer in statistics.layers],
    }


def _count(value: int) -> str:
    if value >= 1e9:
        return f"{value / 1e9:.2f} G"
    return f"{value / 1e6:.1f} M" if value >= 1e5 else f"{value:,}" if value else ""


def _bytes(value: int) -> str:
    return f"{value / 1e6:.2f} MB" if value >= 1e4 else f"{value:,} B" if value else ""
