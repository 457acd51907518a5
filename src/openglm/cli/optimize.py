"""`openglm optimize`: make a model fit, and keep only what is measured to pay."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from openglm.cli.console import command_line, err, listed, out, parse_seconds, print_json
from openglm.cli.export import NOT_ADDED, show, told
from openglm.cli.fit import DOES_NOT_FIT

if TYPE_CHECKING:
    from openglm.passes.recipe import Targets
    from openglm.search.result import Result
    from openglm.search.trial import Trial
    from openglm.targets.export import Outcome

STOPPED = 130
REFUSED = 6
_MARKS = {"chosen": "[green]★[/]", "accepted": "[green]✓[/]", "refused": "[red]✗[/]", "failed": "[red]![/]"}


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="optimize")(optimize)


def optimize(
    model: str = typer.Argument(..., help="Zoo name, hub id, folder, .onnx or .pt2 file."),
    device: str = typer.Option(
        ..., "--device", "-d", help="Device name (openglm devices), host, or a .toml file."
    ),
    output: Path = typer.Option(
        ..., "--output", "-o", help="The bundle: a folder, or a .zip. An earlier bundle is replaced."
    ),
    data: Path | None = typer.Option(
        None, help="Your data: .tsv, .csv, .jsonl, .parquet, .npz, or a folder of images."
    ),
    train: Path | None = typer.Option(
        None, help="Data to train on; if not given, the half of --data that does not judge."
    ),
    metric: str | None = typer.Option(
        None,
        help="fidelity (the default, no labels needed), accuracy, f1, matthews, pearson, spearman, or your "
        "module:function.",
    ),
    max_drop: float = typer.Option(0.01, help="How much of the metric may be lost."),
    latency_ms: float | None = typer.Option(
        None, help="Most milliseconds an inference may take on the device."
    ),
    memory_mb: float | None = typer.Option(
        None, help="Most memory on the device; what it leaves an app if not given."
    ),
    size_mb: float | None = typer.Option(None, help="Largest file."),
    energy_mj: float | None = typer.Option(
        None, help="Most millijoules an inference may take on the device."
    ),
    load_ms: float | None = typer.Option(
        None, help="Most milliseconds until the model is ready on the device."
    ),
    time: str = typer.Option("10m", help="No new recipe is started after this time: 90s, 10m, 1h."),
    recipe: Path | None = typer.Option(None, help="Apply this recipe (.toml) instead of searching for one."),
    runtime: str = typer.Option(
        "", help="Engines to export the bundle for (openglm doctor), joined by commas; or all."
    ),
    workers: int = typer.Option(1, min=1, help="Processes that try recipes side by side."),
    ray: str | None = typer.Option(
        None, help="Try recipes on the Ray cluster at this address; 'local' starts one on this machine."
    ),
    storage: str | None = typer.Option(
        None, help="Keep the search's record elsewhere: postgresql://..., or a journal file (.log)."
    ),
    fresh: bool = typer.Option(False, "--fresh", help="Forget an earlier search for this output."),
    shape: str = typer.Option("", help="Sizes of symbolic dimensions to measure at: batch=1,sequence=128."),
    threads: int | None = typer.Option(
        None, min=1, help="Threads to measure with; the device's cores if not given."
    ),
    samples: int = typer.Option(256, min=1, help="Samples that judge; a quarter as many calibrate."),
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Make MODEL fit a device: search for a recipe that pays, and write the best as a bundle.

    Quantization is tried on every model. With --data, a PyTorch model is pruned and factorised too, and
    trained to give what it gave. Each recipe is measured against the original: one that is slower on
    this machine's engine, or loses more than --max-drop, is refused, and the report says so.

    Ctrl-C stops the search and keeps the best so far; a second one writes nothing. The same command
    goes on where a search was stopped or killed: its record is in the folder study of the output.

    \b
    Exit codes: 0 the bundle fits, 2 bad input, 3 it was written and does not fit, 5 cannot write,
    6 the --recipe does not pay (the bundle holds the original), 130 stopped (the best so far was written).

    \b
    Examples:
      openglm optimize all-minilm-l6-v2 -d cortex-a53-2gb --size-mb 25 -o small
      openglm optimize net.onnx -d raspberry-pi-5 --data photos/ --metric accuracy -o net-small.zip
      openglm optimize ./bert -d tensor-g3 --data dev.tsv --train train.tsv --time 20m -o out
      openglm optimize ./bert -d tensor-g3 --data dev.tsv --train train.tsv --recipe out/recipe.toml -o again
    """
    from openglm.bundle.store import check_target, study_folder
    from openglm.device.fit import Budget
    from openglm.model.analysis.shapes import parse_dims
    from openglm.search.optimize import optimize as search

    budget = Budget(
        latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, energy_mj=energy_mj, load_ms=load_ms
    )
    limit, dims = parse_seconds(time), parse_dims(shape)
    targets = _targets(runtime, recipe)
    check_target(output)
    study = study_folder(output)
    if fresh:
        shutil.rmtree(study, ignore_errors=True)
    display = _Display(quiet=json)
    with display:
        result = search(
            model,
            device,
            budget,
            data=data,
            train=train,
            metric=metric,
            max_drop=max_drop,
            time_limit_s=limit,
            recipe=recipe,
            dims=dims,
            threads=threads,
            calibration_samples=max(1, samples // 4),
            evaluation_samples=samples,
            folder=study,
            storage=storage,
            workers=workers,
            ray=ray,
            progress=display.show,
        )
        display.say("measuring the chosen model once more")
        result.best.save(output, command=command_line())
        outcomes = [] if targets is None else _exported(output, targets, result.bench.setup.threads, display)
    if json:
        print_json(_summary(result, output, outcomes))
    else:
        _tell(result, output)
        if outcomes:
            out().print()
            show(outcomes)
    if result.stopped:
        raise typer.Exit(STOPPED)
    if refused := _refused(result) if recipe is not None else "":
        problem = "The recipe was not taken, and the bundle holds the original"
        err().print(f"[red]{problem}:[/] {refused}", soft_wrap=True)
        raise typer.Exit(REFUSED)
    if not result.best.verdict.fits:
        raise typer.Exit(DOES_NOT_FIT)
    if any(item.target is None for item in outcomes):
        raise typer.Exit(NOT_ADDED)


def _targets(runtime: str, recipe: Path | None) -> Targets | None:
    """The engines that were asked for, all of them installed."""
    from openglm.passes.recipe import Targets, read_targets
    from openglm.targets.export import wanted

    names = listed(runtime)
    found = Targets(runtimes=tuple(names)) if names else None if recipe is None else read_targets(recipe)
    if found is not None:
        wanted(found.runtimes)  # before hours go by for an engine that is not there
    return found


def _exported(output: Path, targets: Targets, threads: int, display: _Display) -> list[Outcome]:
    from openglm.targets.export import export

    return export(
        output,
        targets.runtimes,
        precision=targets.precision,
        sizes=targets.sizes,
        threads=threads,
        progress=display.say,
    )


def _refused(result: Result) -> str:
    """Why the recipe that was given did not pay; empty where it did."""
    from rich.markup import escape

    if result.best.trial.recipe or not (tried := [item for item in result.trials if item.recipe]):
        return ""
    return escape(tried[0].candidate.reason)


class _Display:
    """The progress bar, and above it a line for each candidate judged."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=err(),
            transient=True,
            disable=quiet,
        )
        self._task = self._bar.add_task("loading the model", total=None)

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def show(self, progress: object) -> None:
        from openglm.search.optimize import Progress

        assert isinstance(progress, Progress)
        self._bar.update(self._task, description=progress.text, completed=progress.done, total=progress.total)
        if progress.finished is not None and not self._quiet:
            self._bar.console.print(_line(progress.finished), soft_wrap=True)


def _line(trial: Trial) -> str:
    from rich.markup import escape

    candidate = trial.candidate
    return f"{_MARKS[candidate.outcome]} {escape(candidate.code)}: {escape(candidate.reason)}"


def _summary(result: Result, output: Path, outcomes: Sequence[Outcome]) -> dict[str, object]:
    best = result.best.candidate
    after = result.best.verdict
    return {
        "bundle": str(output),
        **({"engines": [told(item) for item in outcomes]} if outcomes else {}),
        "model": after.model,
        "device": after.device,
        "fits": after.fits,
        "stopped": result.stopped,
        "full": result.full,
        "elapsed_s": result.elapsed_s,
        "spent": result.spent,
        "limits": [limit.model_dump() for limit in after.limits],
        "advice": after.advice,
        "chosen": best.code,
        "speedup": best.speedup,
        "size_bytes": best.size_bytes,
        "original_bytes": result.trials[0].candidate.size_bytes,
        "quality": best.quality.model_dump() if best.quality else None,
        "data": result.bench.feed.description,
        "candidates": [item.model_dump(mode="json", exclude={"recipe"}) for item in result.candidates],
    }


def _tell(result: Result, output: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from openglm.cli.fit import show

    best, original = result.best.candidate, result.trials[0].candidate
    if result.stopped:
        out().print("[yellow]Stopped: this is the best so far.[/]")
    if result.full:
        out().print(f"[yellow]The search ended early: {escape(result.full)} This is the best so far.[/]")
    show(result.best.verdict)
    for limit in result.best.verdict.limits:
        if not limit.ok and limit.budget:
            over = limit.predicted / limit.budget - 1
            out().print(
                f"[red]Unmet: {limit.name}[/], {limit.predicted:.4g} {limit.unit} predicted for a budget of "
                f"{limit.budget:.4g}: {over:.0%} too much.",
                soft_wrap=True,
            )
    out().print()
    threads = f"{result.bench.setup.threads} thread{'s' if result.bench.setup.threads > 1 else ''}"
    out().print(f"Measured on this machine with ONNX Runtime, {threads}:")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row(
        "size", f"{(original.size_bytes or 0) / 1e6:.1f} MB", f"{(best.size_bytes or 0) / 1e6:.1f} MB"
    )
    if best.timing and best.original:
        faster = f"({best.speedup:.2f}x)" if best.speedup else ""
        table.add_row(
            "latency", f"{best.original.median_ms:.2f} ms", f"{best.timing.median_ms:.2f} ms {faster}"
        )
    if best.quality and original.quality:
        table.add_row(best.quality.metric, f"{original.quality.value:.4f}", f"{best.quality.value:.4f}")
    out().print(table)
    out().print(f"\nChosen: [bold]{escape(best.code)}[/]")
    if best.quality and best.quality.details.get("one_class"):
        out().print(
            f"[yellow]All labels of the data are of one class, so {best.quality.metric} says little.[/]"
        )
    if result.spent:
        parts = ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in result.spent.items() if seconds >= 1)
        out().print(
            f"Search: {len(result.trials) - 1} recipes in {result.elapsed_s:.0f} s ({parts}).", style="dim"
        )
    out().print(f"Data: {escape(result.bench.feed.description)}.", style="dim", soft_wrap=True)
    out().print(f"\nBundle: {escape(str(output))}", soft_wrap=True)
    if output.suffix != ".zip":
        out().print(f"Report: {escape(str(output / 'report.html'))}", soft_wrap=True)
