"""`openglm finetune`: a text encoder learns a task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import err, out, print_json

if TYPE_CHECKING:
    from openglm.training.loop import Progress

STOPPED = 130


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="finetune")(finetune)


def finetune(
    model: str = typer.Argument(..., help="A text encoder: zoo name, hub id or transformers folder."),
    output: Path = typer.Option(..., "--output", "-o", help="The transformers folder to write."),
    task: str | None = typer.Option(
        None, help="A GLUE task: cola, sst-2, mrpc, sts-b, qqp, mnli, qnli, rte, wnli."
    ),
    data: Path | None = typer.Option(
        None,
        help="With --task a folder in GLUE's layout, such as one that holds SST-2/train.tsv; if not given, "
        "GLUE is fetched from the network by the datasets package. Without --task your own table.",
    ),
    dev: Path | None = typer.Option(
        None,
        help="Your own table that judges; if not given, every tenth row of --data does and never trains.",
    ),
    regression: bool = typer.Option(False, "--regression", help="Take whole numbers as values, not classes."),
    epochs: int = typer.Option(3, min=1, help="How often the training data are gone through."),
    batch_size: int = typer.Option(32, min=1, help="Rows for each update."),
    learning_rate: float = typer.Option(
        5e-5, help="The highest: it rises for a tenth of the time, then falls."
    ),
    seed: int = typer.Option(0, help="Of the new head, the order of the rows and dropout."),
    max_length: int = typer.Option(128, min=8, help="Tokens that a text, or two together, is cut to."),
    patience: int | None = typer.Option(
        None, min=1, help="Stop after so many epochs in a row without a better score."
    ),
    limit: int | None = typer.Option(
        None, min=2, help="Use only the first so many rows, of the training and of the dev data each."
    ),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Fine-tune a text encoder for a task: a GLUE task, or one of your own.

    It is judged after every epoch, and the best weights are kept. OUT is an ordinary transformers
    folder, which fit, optimize and bench glue take. Stopped or killed, the same command goes on where
    it was: the folder OUT.training keeps its state until it is done.

    \b
    Exit codes: 0 done, 2 bad input, 5 cannot write, 130 stopped.

    \b
    Examples:
      openglm finetune all-minilm-l6-v2 --task sst-2 --data glue -o sst-2
      openglm finetune all-minilm-l6-v2 --data train.tsv --dev dev.tsv -o mine
    """
    from openglm.errors import InputError
    from openglm.glue import finetuning, read
    from openglm.glue.own import own
    from openglm.glue.tasks import task_of

    if task is not None:
        if dev is not None or regression:
            raise InputError(
                "--dev and --regression are for data of your own.",
                "Leave them out, or leave --task out.",
            )
        known = task_of(task)
        train, judges = read.train(known, data), read.dev(known, data)
    elif data is not None:
        known, train, judges = own(data, dev, regression=regression)
    else:
        raise InputError("There is nothing to train on.", "Give --task, or --data with a table of your own.")
    plan = finetuning.Plan(epochs, batch_size, learning_rate, seed, max_length, patience, limit)
    with Display(quiet=json) as display:
        try:
            found = finetuning.finetune(model, known, train, judges, output, plan, display.show)
        except KeyboardInterrupt:
            display.stop()
            err().print(
                f"Stopped; the same command goes on from {finetuning.work_folder(output)}.", markup=False
            )
            raise typer.Exit(STOPPED) from None
    history = found.history
    if json:
        record: dict[str, Any] = {
            "output": str(output),
            "task": known.name,
            "scores": found.scores,
            "best_step": history.best[0] if history.best else None,
            "steps": history.step,
            "seconds": history.seconds,
            "rows": {"train": found.rows[0], "dev": found.rows[1]},
            "evaluations": history.evaluations,
            "notes": history.notes,
        }
        print_json(record)
        return
    figures = ", ".join(f"{name} {value:.4f}" for name, value in found.scores.items())
    best = f" with the weights after step {history.best[0]} of {history.step}" if history.best else ""
    out().print(
        f"{known.name}: {figures} on {found.rows[1]:,} rows that did not train,{best}.",
        soft_wrap=True,
        markup=False,
    )
    trained = f"Trained on {found.rows[0]:,} rows for {history.seconds:.0f} s."
    out().print(" ".join([trained, *history.notes]), style="dim", soft_wrap=True, markup=False)
    out().print(f"Model: {output}", soft_wrap=True, markup=False)


class Display:
    """A bar with the loss, and above it a line for each time that the model was judged."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=err(),
            transient=True,
            disable=quiet,
        )
        self._quiet = quiet
        self._said: float | None = None
        self._prefix = ""
        self._task = self._bar.add_task("reading", total=None)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar off the terminal."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """What goes on now."""
        self._prefix = f"{text}: "
        self._said = None
        self._bar.update(self._task, description=text, completed=0, total=None)

    def show(self, progress: Progress) -> None:
        """Show how a training goes."""
        text = f"{self._prefix}loss {progress.loss:.3f}, {progress.samples_per_second:.0f} rows/s"
        if progress.metric is not None:
            text += f", score {progress.metric:.4f}"
        self._bar.update(self._task, description=text, completed=progress.step, total=progress.total)
        if progress.metric != self._said and not self._quiet:
            self._said = progress.metric
            line = f"{self._prefix}step {progress.step - 1} of {progress.total}: score {progress.metric:.4f}"
            self._bar.console.print(line, markup=False)
