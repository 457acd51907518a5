"""`openglm bench`: models by published benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.cli.console import listed, out, print_json
from openglm.cli.finetune import Display

if TYPE_CHECKING:
    from openglm.glue.bench import Result
    from openglm.glue.tasks import Task

MODELS = "models"
"""The folder of the output that fine-tuned models are kept in."""

bench = typer.Typer(
    name="bench", help="Judge models by published benchmarks.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(bench)


@bench.callback()
def _benches() -> None:
    """Judge models by published benchmarks."""


@bench.command(name="glue")
def glue(
    model: str = typer.Option(
        ...,
        "--model",
        "-m",
        help="A fine-tuned transformers folder or a bundle; a folder of such, called as the tasks; or, with "
        "--finetune, an encoder.",
    ),
    tasks: str = typer.Option(
        "", help="Tasks, with commas between: sst-2,mrpc. If not given, those that the model is for."
    ),
    data: Path | None = typer.Option(
        None,
        help="A folder in GLUE's layout: CoLA/dev.tsv and so on. If not given, GLUE is fetched from the "
        "network by the datasets package.",
    ),
    finetune: bool = typer.Option(False, "--finetune", help="Fine-tune the model for each task first."),
    epochs: int = typer.Option(3, min=1, help="With --finetune: epochs."),
    batch_size: int = typer.Option(32, min=1, help="With --finetune: rows for each update."),
    learning_rate: float = typer.Option(5e-5, help="With --finetune: the highest learning rate."),
    limit: int | None = typer.Option(
        None, min=2, help="Judge on the first so many rows only; with --finetune, train on so many, too."
    ),
    threads: int = typer.Option(1, min=1, help="Threads."),
    rounds: int = typer.Option(30, min=5, help="Rows of each task that are timed, from all over its data."),
    beside: bool = typer.Option(
        True,
        "--beside/--alone",
        help="Measure BERT-base's and RoBERTa-large's shapes in the same run, or not.",
    ),
    memory: bool = typer.Option(
        False,
        "--memory",
        help="Measure the peak memory of fine-tuning too: minutes, up to 20 GB for RoBERTa-large's shape.",
    ),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="A folder for glue.html, glue.json and fine-tuned models."
    ),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Judge a model by GLUE's official metrics, and measure its latency and memory.

    Beside it, in the same run, networks of BERT-base's and RoBERTa-large's shapes are measured, with
    random weights; what those score is cited.

    \b
    Exit codes: 0 done, 2 bad input, 5 cannot write, 130 stopped.

    \b
    Examples:
      openglm bench glue --model sst-2 --data glue
      openglm bench glue --model small --tasks sst-2 --data glue --output report
      openglm bench glue --model all-minilm-l6-v2 --finetune --tasks mrpc,cola --data glue --output report
    """
    import tempfile
    from contextlib import ExitStack

    from openglm.glue import finetuning, models, page, read
    from openglm.glue.bench import Bench
    from openglm.glue.references import REFERENCES
    from openglm.writing import replacing

    chosen = _tasks(tasks, model, data, finetune)
    dev = {task.slug: read.dev(task, data) for task in chosen}
    home = None if output is None else _folder(output)
    with ExitStack() as resources, Display(quiet=json) as display:
        work = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="openglm-")))
        provide = models.stored(model, threads, work, resources)
        if finetune:
            plan = finetuning.Plan(epochs, batch_size, learning_rate, limit=limit)
            kept = (home or work) / MODELS
            trained = models.finetuned(model, data, plan, kept, lambda _, step: display.show(step))
            for task in chosen:
                display.say(f"fine-tuning for {task.name}")
                trained(task)
            provide = models.stored(str(kept), threads, work, resources)
        others = REFERENCES if beside else ()
        run = Bench(provide, others, threads=threads, rounds=rounds, work=work, tell=display.say)
        for task in chosen:
            run.judge(task, dev[task.slug], limit)
        source = "the datasets package" if data is None else str(data)
        name = f"{model}, fine-tuned" if finetune else model
        result = run.result(name, source, finetuning=memory)
    if home is not None:
        for name, text in (
            ("glue.html", page.render(result)),
            ("glue.json", result.model_dump_json(indent=2)),
        ):
            with replacing(home / name) as part:
                part.write_text(text, encoding="utf-8")
    if json:
        print_json(result.model_dump(mode="json"))
        return
    _tell(result)
    if home is not None:
        out().print(f"\nReport: {home / 'glue.html'}", soft_wrap=True, markup=False)


def _tasks(names: str, model: str, data: Path | None, finetune: bool) -> list[Task]:
    from openglm.errors import InputError
    from openglm.glue import models, read
    from openglm.glue.tasks import TASKS, task_of

    given = listed(names)
    if given:
        return list({task.slug: task for task in map(task_of, given)}.values())
    if finetune:
        return list(TASKS.values()) if data is None else read.present(data)
    found = models.tasks_of(model)
    if not found:
        raise InputError(
            f"{model} does not say which task it is for.", "Name it: --tasks sst-2; or give --finetune."
        )
    return found


def _folder(output: Path) -> Path:
    from openglm.errors import OutputError

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be made a folder ({error.strerror}).", "Give a folder that you may write to."
        ) from error
    return output


def _tell(result: Result) -> None:
    from rich.table import Table

    from openglm.glue.bench import MODEL
    from openglm.glue.page import points

    def table(*heads: str) -> Table:
        made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for number, head in enumerate(heads):
            made.add_column(head, justify="right" if number else "left", overflow="fold")
        return made

    scores = table("task", "figures", "score", "rows", "median", "p90")
    for judged in result.tasks:
        timing = judged.latency[MODEL]
        scores.add_row(
            judged.task,
            ", ".join(f"{name} {points(value)}" for name, value in judged.scores.items()),
            points(judged.score),
            f"{'' if judged.whole else 'first '}{judged.rows:,}",
            f"{timing.median_ms:.2f} ms",
            f"{timing.p90_ms:.2f} ms",
        )
    out().print(scores)
    sides = table("", *("model" if number == 0 else side.name for number, side in enumerate(result.sides)))
    count = len(result.tasks)
    mark = "cited " if len(result.sides) > 1 else ""
    sides.add_row(
        f"average of {count} task{'s' if count > 1 else ''}",
        *(f"{mark if side.cited else ''}{points(side.average)}" for side in result.sides),
    )
    for judged in result.tasks:
        cited = [side.scores.get(judged.task) for side in result.sides[1:]]
        if any(value is not None for value in cited):
            told = ("" if value is None else f"cited {points(value)}" for value in cited)
            sides.add_row(judged.task, points(judged.score), *told)
    sides.add_row("latency, median", *(f"{side.latency.median_ms:.2f} ms" for side in result.sides))
    sides.add_row("latency, p90", *(f"{side.latency.p90_ms:.2f} ms" for side in result.sides))
    if len(result.sides) > 1:
        sides.add_row(
            "the model's speed", *("" if s.speedup is None else f"{s.speedup:.2f}x" for s in result.sides)
        )
    for name, field in (("peak memory", "peak_memory_mb"), ("to fine-tune", "finetuning_memory_mb")):
        values = [getattr(side, field) for side in result.sides]
        if any(value is not None for value in values):
            sides.add_row(name, *("–" if value is None else f"{value:,.0f} MB" for value in values))
    sides.add_row("size", *(f"{side.size_bytes / 1e6:,.1f} MB" for side in result.sides))
    out().print()
    out().print(sides)
    host = result.host
    beside = ""
    if len(result.sides) > 1:
        beside = (
            " The networks beside the model have the shapes of those named, with random weights, and ran in "
            "turn with it on rows of the same lengths; what they score is cited, over all of GLUE, and not "
            "measured."
        )
    out().print(
        f"\nMeasured on {host.processor}, {host.engine}, {host.threads} "
        f"thread{'s' if host.threads > 1 else ''}, one row at a time at its own length.{beside}",
        style="dim",
        soft_wrap=True,
        markup=False,
    )
