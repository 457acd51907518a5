"""`openglm calibrate`: a bundle's thresholds, set again on other data."""

from __future__ import annotations

from pathlib import Path

import typer

from openglm.cli.console import command_line, err, out, print_json


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="calibrate")(calibrate)


def calibrate(
    bundle: Path = typer.Argument(..., help="A bundle with exits, a cascade or token pruning."),
    data: str = typer.Option(
        ..., "--data", help="Your data: .tsv, .csv, .jsonl, .parquet, .npz, or a folder of images."
    ),
    output: Path = typer.Option(..., "--output", "-o", help="The new bundle; it may be the old one's place."),
    max_drop: float | None = typer.Option(
        None, help="What the gates may cost in the mean; what the bundle was made with if not given."
    ),
    certainty: float | None = typer.Option(
        None, help="With which they cost no more; what the bundle was made with if not given."
    ),
    false_rejects: float | None = typer.Option(
        None, help="Of a cascade that wakes: the share of wanted inputs that may be missed."
    ),
    samples: int = typer.Option(2000, min=2, help="Of the data, at most."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Set the thresholds of a bundle again where its inputs have changed. Its graphs stay as they are.

    Labels are numbers of classes, from 0, or values; without labels, agreement with the whole model
    counts. Where the data do not show that leaving early costs little enough, nothing leaves.

    \b
    Example:
      openglm calibrate reviews --data this-week.tsv -o reviews-new
    """
    from rich.markup import escape

    from openglm.search.recalibration import calibrate as run

    with err().status("reading") as status:
        found = run(
            bundle,
            data,
            output,
            max_drop=max_drop,
            certainty=certainty,
            false_rejects=false_rejects,
            samples=samples,
            command=command_line(),
            progress=status.update,
        )
    if json:
        print_json(
            {
                "bundle": str(output),
                "before": found.before._asdict(),
                "after": found.after._asdict(),
                "notes": list(found.notes),
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("on the new data", "thresholds before", "now"):
        table.add_column(column, justify="left" if column.startswith("on") else "right")
    pair = (found.before, found.after)
    table.add_row("work, of the whole model's", *(f"{each.work:.1%}" for each in pair))
    table.add_row("loss beyond the whole model's", *(f"{each.drop:.4f}" for each in pair))
    out().print(table)
    for note in found.notes:
        out().print(note, soft_wrap=True, markup=False)
    out().print(f"Written: {escape(str(output))}", soft_wrap=True)
