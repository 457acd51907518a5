"""`openglm convert`: a TensorFlow SavedModel as a .tflite file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.cli.comparing import DATA, SAMPLES
from openglm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from openglm.targets.litert_file import Converted


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command(name="convert")(convert)


def convert(
    saved_model: Path = typer.Argument(..., help="A SavedModel folder: what model.export(folder) writes."),
    output: Path = typer.Option(..., "--output", "-o", help="The .tflite file to write."),
    precision: str = typer.Option(
        "fp32", help="fp32, fp16 or int8: weights in int8, activations quantized as they come."
    ),
    data: str | None = DATA,
    samples: int = SAMPLES,
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = typer.Option(15, min=5, help="Rounds of measuring; in each, both files run once."),
    time: float = typer.Option(1200.0, min=1, help="Seconds for the conversion, and for one comparison."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Convert a TensorFlow SavedModel for LiteRT, and prove the file at once against TensorFlow's answers.

    A file that gives other answers than its precision explains is not written.

    \b
    Examples:
      openglm convert my_saved_model -o small.tflite --precision int8
      openglm convert my_saved_model -o small.tflite --precision int8 --data inputs.npz
    """
    from openglm.targets.litert_file import to_litert

    with err().status("converting") as status:
        found = to_litert(
            saved_model, output, precision=precision, data=data, samples=samples, threads=threads,
            rounds=rounds, seconds=time, progress=status.update,
        )  # fmt: skip
    if json:
        print_json(_record(found))
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    rows = [
        ("", "fp32", found.precision, f"{found.precision} / fp32"),
        (
            "size",
            f"{found.float_bytes / 1e6:.3f} MB",
            f"{found.size_bytes / 1e6:.3f} MB",
            f"{found.size_bytes / found.float_bytes:.2f}",
        ),
        (
            "latency, median",
            f"{found.float_timing.median_ms:.3f} ms",
            f"{found.timing.median_ms:.3f} ms",
            f"{1 / found.speedup:.2f}",
        ),
    ]
    titles, *cells = [row[:2] if found.precision == "fp32" else row for row in rows]
    for title in titles:
        table.add_column(title, justify="right" if title else "left")
    for row in cells:
        table.add_row(*row)
    out().print(table)
    told = (
        f"\nfp32 against TensorFlow: largest difference {found.conversion.difference:.2g} of the largest "
        f"output, cosine {found.conversion.cosine:.6f}."
    )
    out().print(told, soft_wrap=True)
    if found.precision != "fp32":
        told = (
            f"{found.precision} against fp32: largest difference {found.proof.difference:.2g}, mean "
            f"{found.proof.mean_difference:.2g}, cosine {found.proof.cosine:.6f}, on {found.samples} inputs "
            f"({found.data})."
        )
        out().print(told, soft_wrap=True, markup=False)
    noun = "thread" if found.host.threads == 1 else "threads"
    told = f"Measured on {found.host.processor}, {found.host.engine}, {found.host.threads} {noun}."
    out().print(told, style="dim", soft_wrap=True, markup=False)
    out().print(f"Written: {found.path}", soft_wrap=True, markup=False)


def _record(found: Converted) -> dict[str, object]:
    return {
        "output": str(found.path),
        "precision": found.precision,
        "size_bytes": found.size_bytes,
        "float_bytes": found.float_bytes,
        "against_tensorflow": found.conversion._asdict(),
        "against_fp32": found.proof._asdict(),
        "samples": found.samples,
        "data": found.data,
        "timing": found.timing.model_dump(),
        "float_timing": found.float_timing.model_dump(),
        "speedup": found.speedup,
        "host": found.host.model_dump(),
    }
