"""`openglm bench latency`: any model on any engines."""

from __future__ import annotations

from pathlib import Path

import typer

from openglm.cli.bench import bench
from openglm.cli.comparing import DATA, ROUNDS, SAMPLES, SIZES, TIME
from openglm.cli.console import err, listed, print_json
from openglm.cli.export import NOT_ADDED, parse_sizes, show, told
from openglm.errors import InputError


def register(app: typer.Typer) -> None:
    """Add this module's command to `openglm bench`."""
    bench.command(name="latency")(latency)


def latency(
    model: str = typer.Argument(..., help="A model, as elsewhere, or a bundle."),
    runtime: str = typer.Option(
        "all", "--runtime", "-r", help="Engines, by name (openglm doctor), joined by commas; or all."
    ),
    precision: str | None = typer.Option(
        None,
        help="What other engines hold weights in: fp32, fp16, int8 or int4; as the model if not given.",
    ),
    threads: str = typer.Option("1", help="Threads; several numbers, as in 1,2, are measured one by one."),
    shape: str = typer.Option("", help="Sizes of a model's symbolic dimensions: batch=1,sequence=128."),
    sizes: list[str] = SIZES,
    data: str | None = DATA,
    samples: int = SAMPLES,
    rounds: int = ROUNDS,
    time: float = TIME,
    json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Measure any model or bundle on the engines that are here: latency, load time, memory and size.

    Each engine's answers are compared with ONNX Runtime's first. Nothing is written.

    \b
    Exit codes: 0 all ran, 2 bad input, 4 at least one engine did not take it, or answered otherwise.

    \b
    Examples:
      openglm bench latency all-minilm-l6-v2 --shape sequence=32 --threads 1,2
      openglm bench latency net.onnx --runtime onnxruntime
      openglm bench latency small --runtime mnn,openvino --precision fp16
    """
    from openglm.model.analysis.shapes import parse_dims
    from openglm.targets.latency import latency as run

    try:
        counts = [int(count) for count in listed(threads)] or [0]
    except ValueError:
        raise InputError(f"'{threads}' are no numbers of threads.", "Write them as 1,2.") from None
    with err().status("reading") as status:
        outcomes = run(
            Path(model) if Path(model).exists() else model,
            listed(runtime),
            precision=precision,  # type: ignore[arg-type]  # checked there
            sizes=parse_sizes(sizes),
            dims=parse_dims(shape),
            data=data,
            samples=samples,
            threads=counts,
            rounds=rounds,
            seconds=time,
            progress=status.update,
        )
    if json:
        print_json({"model": model, "engines": [told(item) for item in outcomes]})
    else:
        show(outcomes)
    if any(item.target is None for item in outcomes):
        raise typer.Exit(NOT_ADDED)
