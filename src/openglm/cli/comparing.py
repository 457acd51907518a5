"""The options of commands that compare engines."""

from __future__ import annotations

import typer

SIZES = typer.Option([], help="For engines of fixed sizes: sequence=16,64; again for another dimension.")
DATA = typer.Option(
    None, "--data", help="Your data to compare on: .tsv, .csv, .jsonl, .parquet, .npz, or a folder."
)
SAMPLES = typer.Option(32, min=1, help="Inputs that answers are compared on.")
ROUNDS = typer.Option(15, min=5, help="Rounds of measuring; in each, all engines run once.")
TIME = typer.Option(300.0, min=1, help="Seconds for one conversion, and for one comparison.")
