"""`openglm language-models`: which sizes of language models a phone runs, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from openglm.cli.console import figure, out, print_json
from openglm.cli.fit import DOES_NOT_FIT

if TYPE_CHECKING:
    from openglm.device.decoder import Decoder
    from openglm.device.language_fit import LanguageFit, Question
    from openglm.device.profile import Device

ALL_BITS = (4, 8, 16)


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="language-models")(language_models)


def language_models(
    model: str = typer.Argument(
        "", help="A size (7B), or the config.json of transformers; all sizes if not given."
    ),
    device: str = typer.Option("all", "--device", "-d", help="Device name, host, a .toml file, or all."),
    bits: int | None = typer.Option(
        None, help="Bits of a weight: 4, 8 or 16; 4, or all where there is room to list them, if not given."
    ),
    context: int = typer.Option(4096, help="Tokens that there has to be room for."),
    cache_bits: int = typer.Option(16, help="Bits of an element of the key-value cache: 8 or 16."),
    prompt: int = typer.Option(128, help="Tokens of the prompt that the first answer waits for."),
    unit: str = typer.Option("best", help="What computes: cpu, gpu, npu, or best."),
    json: bool = typer.Option(False, "--json", help="Print JSON for programs."),
) -> None:
    """Say which language models fit a phone, and how many tokens a second they read and write there.

    No model is needed: sizes are enough. Every figure is predicted. Exit codes: 0, 2 bad input, 3 where
    MODEL does not fit the device.

    \b
    Examples:
      openglm language-models                              which size runs on which phone, at 4 bits
      openglm language-models 7B                           one size, every phone, at 4, 8 and 16 bits
      openglm language-models -d snapdragon-8-gen-3        one phone, every size
      openglm language-models 7B -d snapdragon-8-gen-3     memory and speed against the context
      openglm language-models my-model/config.json --bits 8 --context 2048
    """
    from openglm.device import profile
    from openglm.device.decoder import Decoder, sizes
    from openglm.device.language_fit import Question, language_fit, processors

    asked = Question(
        bits=4 if bits is None else bits,
        context=context,
        cache_bits=cache_bits,
        prompt=prompt,
        unit=unit,
    )
    listed = ALL_BITS if bits is None else (bits,)
    models = [Decoder.load(model)] if model else sizes()
    if device != "all":
        one = profile.load(device)
        if model:
            found = language_fit(models[0], one, asked)
            _one(models[0], one, asked, found, json)
            if not found.fits:
                raise typer.Exit(DOES_NOT_FIT)
            return
        _table(models, [one], asked, listed, json, by_model=True)
        return
    phones = [profile.load(name) for name in profile.names() if name != "host"]
    phones = [phone for phone in phones if processors(phone, asked)]
    if model or json:
        _table(models, phones, asked, listed, json, by_model=False)
    else:
        _grid(models, phones, asked)


def _fits(
    models: list[Decoder], phones: list[Device], asked: Question, bits: tuple[int, ...]
) -> list[LanguageFit]:
    from openglm.device.language_fit import language_fit

    return [
        language_fit(model, phone, asked.model_copy(update={"bits": each}))
        for phone in phones
        for model in models
        for each in bits
    ]


def _table(
    models: list[Decoder],
    phones: list[Device],
    asked: Question,
    bits: tuple[int, ...],
    json: bool,
    *,
    by_model: bool,
) -> None:
    """A row for each phone or model and each number of bits."""
    from rich.table import Table

    found = _fits(models, phones, asked, bits)
    if json:
        print_json([item.model_dump(mode="json") for item in found])
        return
    if not by_model:
        order = {
            phone.name: -max(item.decode_per_s for item in found if item.device == phone.name)
            for phone in phones
        }
        found.sort(key=lambda item: order[item.device])
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("model" if by_model else "device", no_wrap=True)
    for heading in ("bits", "needs\nMB", "of\nMB", "fits", "read\ntok/s", "written\ntok/s", "first\ntok ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    last = ""
    for item in found:
        name = item.model if by_model else item.device
        speed = (
            [figure(item.prefill_per_s), figure(item.decode_per_s), figure(item.first_token_ms)]
            if item.fits
            else ["-", "-", "-"]
        )
        mark = "[green]✓[/]" if item.fits else "[red]✗[/]"
        table.add_row(
            "" if name == last else name,
            str(item.bits),
            f"{item.memory_mb:,.0f}",
            f"{item.limit_mb:,.0f}",
            mark,
            *speed,
            item.unit,
        )
        last = name
    out().print(table)
    _notes(asked)


def _grid(models: list[Decoder], phones: list[Device], asked: Question) -> None:
    """Phones down, sizes across; in each cell tokens written a second."""
    from rich.table import Table

    from openglm.device.language_fit import language_fit

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("device", no_wrap=True)
    for model in models:
        table.add_column(model.name, justify="right", no_wrap=True)
    rows = [(phone, [language_fit(model, phone, asked) for model in models]) for phone in phones]
    rows.sort(key=lambda row: -row[1][0].decode_per_s)
    for phone, found in rows:
        table.add_row(phone.name, *(figure(item.decode_per_s) if item.fits else "-" for item in found))
    out().print(
        f"Tokens written a second with weights of {asked.bits} bits; - where the memory does not suffice.\n",
        soft_wrap=True,
    )
    out().print(table)
    _notes(asked)


def _one(model: Decoder, device: Device, asked: Question, found: LanguageFit, json: bool) -> None:
    """One model on one device, and what the context costs."""
    from rich.table import Table

    from openglm.device.language_fit import CONTEXTS, Question, language_fit

    rows: list[tuple[int, dict[int, LanguageFit]]] = []
    for context in CONTEXTS:
        given = asked.model_dump() | {"context": context, "prompt": min(asked.prompt, context)}
        rows.append(
            (
                context,
                {
                    bits: language_fit(model, device, Question(**(given | {"cache_bits": bits})))
                    for bits in (16, 8)
                },
            )
        )
    if json:
        contexts: list[dict[str, Any]] = [
            {"cache_bits": bits, **item.model_dump(mode="json")}
            for _, pair in rows
            for bits, item in pair.items()
        ]
        print_json({**found.model_dump(mode="json"), "contexts": contexts})
        return
    colour, verb = ("green", "fits") if found.fits else ("red", "does not fit")
    out().print(
        f"[bold {colour}]{model.name} at {asked.bits} bits {verb} {device.name}[/]: "
        f"{found.memory_mb:,.0f} MB of {found.limit_mb:,.0f} with a context of {asked.context:,}.",
        soft_wrap=True,
    )
    out().print(
        f"{model.parameters / 1e9:.2f} billion weights, {found.weights_mb:,.0f} MB. On the {found.unit}: "
        f"{figure(found.prefill_per_s)} tokens a second read, {figure(found.decode_per_s)} written, "
        f"{figure(found.first_token_ms)} ms to the first after a prompt of {asked.prompt}.\n",
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in (
        "context",
        "cache MB\nfp16",
        "written\ntokens/s",
        "fits",
        "cache MB\nint8",
        "written\ntokens/s",
        "fits",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for context, pair in rows:
        cells = []
        for bits in (16, 8):
            item = pair[bits]
            cells += [
                f"{item.cache_mb:,.0f}",
                figure(item.decode_per_s) if item.fits else "-",
                "[green]✓[/]" if item.fits else "[red]✗[/]",
            ]
        table.add_row(f"{context:,}", *cells)
    out().print(table)
    _notes(asked)


def _notes(asked: Question) -> None:
    out().print()
    for line in (
        f"For a full context of {asked.context:,} tokens, a cache of {asked.cache_bits} bits, a prompt of "
        f"{asked.prompt} tokens.",
        "Predicted from bandwidth and arithmetic: expect a third either way.",
    ):
        out().print(line, style="dim", soft_wrap=True)
