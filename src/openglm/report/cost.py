"""The section on where the time goes, layer by layer, as predicted for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openglm.bundle.manifest import Manifest
from openglm.report import plots, units
from openglm.report.layers import Group, groups, kinds
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, section, table

PHASES = ("before", "after")
WORDS = {"compute": "arithmetic", "memory": "memory", "overhead": "overhead"}


def show(manifest: Manifest) -> Markup:
    """The section."""
    device = str(manifest.device.get("name", "the device"))
    if not groups(manifest.layers)[0]:
        return section(
            "layers", "Where the time goes", None, tag("p", "The cost of layers was not recorded.")
        )
    tables = [_table(f"By part of the model, predicted for {device}", manifest, manifest.layers)]
    summed = kinds(manifest.layers)
    if summed != list(manifest.layers):
        tables.append(
            _table(f"By kind of layer, repeated blocks (*) summed, predicted for {device}", manifest, summed)
        )
    totals = [_listed(manifest, phase) + _unlisted(manifest, phase) for phase in PHASES]
    aside = [
        badge("predicted", device),
        tag(
            "p",
            "Layers summed by the module they came from. "
            f"In all {units.ms(totals[0])} before, {units.ms(totals[1])} after.",
        ),
    ]
    return section("layers", "Where the time goes", aside, *tables)


def _table(caption: str, manifest: Manifest, layers: Sequence[Mapping[str, Any]]) -> Markup:
    found, rest = groups(layers)
    if layers is not manifest.layers:
        found.sort(key=lambda group: group.cost, reverse=True)
    unlisted = {phase: _unlisted(manifest, phase) for phase in PHASES}
    if any(unlisted.values()):
        costs = rest.ms if rest else dict.fromkeys(PHASES, 0.0)
        rest = Group("all others", {phase: ms + unlisted[phase] for phase, ms in costs.items()})
    rows = [*found, rest] if rest else found
    most = max(group.cost for group in rows) or 1.0
    heads = [
        Cell("Module"),
        Cell("Compared", "chart"),
        Cell("Before", "number key before"),
        Cell("After", "number key after"),
        Cell("Precision", "words"),
        Cell("Bound by"),
    ]
    return table(caption, heads, [_row(group, most) for group in rows], "layers stack")


def _listed(manifest: Manifest, phase: str) -> float:
    return sum(float(layer.get("ms") or 0.0) for layer in manifest.layers if layer.get("phase") == phase)


def _unlisted(manifest: Manifest, phase: str) -> float:
    """What the verdict's latency holds beyond the layers listed, of which a manifest keeps the costliest."""
    verdict = manifest.verdict_before if phase == "before" else manifest.verdict_after
    total = next(
        (limit["predicted"] for limit in verdict.get("limits", []) if limit["name"] == "latency"), 0.0
    )
    missing = float(total) - _listed(manifest, phase)
    # What rounding leaves is nothing that was left out.
    return missing if missing > 1e-3 * total else 0.0


def _row(group: Group, most: float) -> list[Cell]:
    name: Content = tag(
        "code",
        [part if index == 0 else [".", tag("wbr"), part] for index, part in enumerate(group.name.split("."))],
    )
    shares = [(group.ms["before"] / most, "before"), (group.ms["after"] / most, "after")]
    return [
        Cell(name),
        Cell(plots.track(shares), "chart"),
        Cell(units.ms(group.ms["before"] or None), "number key before"),
        Cell(units.ms(group.ms["after"] or None), "number key after"),
        Cell(_words(group, "precision"), "words"),
        Cell(_words(group, "bound")),
    ]


def _words(group: Group, kind: str) -> str:
    words = [group.mostly(phase, kind) for phase in ("before", "after")]
    told = [WORDS.get(word, word) for word in words if word]
    return " → ".join(dict.fromkeys(told)) or units.NONE
