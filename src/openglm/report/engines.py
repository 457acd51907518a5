"""The section on other engines that a bundle was exported for."""

from __future__ import annotations

from collections.abc import Iterator

from openglm.bundle.manifest import Manifest, Target
from openglm.report import units
from openglm.report.markup import Markup, tag
from openglm.report.parts import Cell, badge, section, table

HEADS = ("Size", "Load", "Latency", "Speed", "Memory", "Difference", "Cosine")


def show(manifest: Manifest) -> Markup | None:
    """The section; nothing where the bundle has its own engine only."""
    if not manifest.targets:
        return None
    gated = any(target.same_way is not None for target in manifest.targets)
    hosts = sorted({target.host.processor for target in manifest.targets})
    threads = sorted({target.host.threads for target in manifest.targets})
    aside = [
        badge("measured", ", ".join(hosts)),
        tag(
            "p",
            f"{' or '.join(map(str, threads))} {'thread' if threads == [1] else 'threads'}. Speed is to "
            f"{manifest.host.engine}, in rounds of all in turn. Differences are to its answers: the largest, "
            "as a share of the largest output, and the cosine of all."
            + (" Same way: the share of inputs that took the same way through the gates." if gated else ""),
        ),
    ]
    numbers = (*HEADS, "Same way") if gated else HEADS
    heads = [Cell("Engine"), Cell("Weights"), *(Cell(head, "number") for head in numbers)]
    rows = [_row(target, gated) for target in manifest.targets]
    told = [tag("p", note) for target in manifest.targets for note in _notes(target)]
    return section(
        "engines", "On other engines", aside, table("Engines that give its answers", heads, rows), *told
    )


def _notes(target: Target) -> Iterator[str]:
    if not target.ran:
        yield f"{target.host.engine} does not run where it was converted: its files were checked, not run."
    for place, operators in target.elsewhere.items():
        yield f"{target.host.engine}: {place} runs {', '.join(operators)}."


def _row(target: Target, gated: bool) -> list[Cell]:
    timing = target.timing
    figures = [
        units.size(target.size_bytes),
        "" if target.load_ms is None else units.ms(target.load_ms),
        ("" if timing is None else units.ms(timing.median_ms)) if target.ran else "not run here",
        "" if target.speedup is None else units.times(target.speedup),
        "" if target.peak_memory_mb is None else units.size(int(1e6 * target.peak_memory_mb)),
        "" if target.difference is None else units.figure(target.difference),
        "" if target.cosine is None else f"{target.cosine:.5f}",
        *(["" if target.same_way is None else f"{target.same_way:.0%}"] if gated else []),
    ]
    name = Cell(target.host.engine)
    return [name, Cell(target.precision), *(Cell(figure, "number") for figure in figures)]
