"""The section on sensitivity: what each technique costs on each part of the model alone."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from openglm.bundle.manifest import Manifest, Sensitivity
from openglm.report import units
from openglm.report.markup import Content, Markup, tag
from openglm.report.parts import Cell, badge, breakable, section, table

LEFT_OUT = "left out"
TECHNIQUES = ("int8", "half its heads", "half its neurons", "half its channels", "half its rank", LEFT_OUT)
"""Columns in order; others follow as they occur."""

LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""The costs at which the next colour begins."""

LEAST = 1e-4
"""Costs below it are told as such: they are within what a few samples can tell."""


@dataclass
class Part:
    """A part of the model, with the cost of every technique that was tried on it."""

    block: str
    """The block or layer it is, or is in: "layer 4"."""
    what: str
    """Which piece of the block: "feed-forward"; empty for a whole one and for a plain layer."""
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in a table."""
        return f"{self.block}, {self.what}" if self.what else self.block

    @property
    def spoken(self) -> str:
        """As in a sentence, at its beginning."""
        text = f"{self.block}’s {self.what}" if self.what else self.block
        # A layer is called by its path, whose letters mean something.
        return text[:1].upper() + text[1:] if " " in text else text


def parts(found: Sequence[Sensitivity]) -> list[Part]:
    """The parts in the model's order, named without what all their paths begin with."""
    paths = [item.part.partition(" ")[0].split(".") for item in found]
    shared = 0
    while paths and all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    if shared and any(path[shared].isdecimal() for path in paths):
        shared -= 1
    blocks = any(" " in item.part for item in found)
    kept: dict[str, Part] = {}
    for item, path in zip(found, paths, strict=True):
        what = item.part.partition(" ")[2]
        name = _words(path[shared:]) if blocks else ".".join(path[shared:])
        kept.setdefault(item.part, Part(name, what)).costs[item.technique] = item.cost
    if not blocks:
        return list(kept.values())
    # A technique that did not apply to a part may have let it come after its turn.
    first: dict[str, int] = {}
    for name in kept:
        first.setdefault(_series(name), len(first))
    order = sorted(kept, key=lambda name: (first[_series(name)], _numbers(name)))
    return [kept[name] for name in order]


def _words(path: Sequence[str]) -> str:
    """A block's path as people say it: "encoder layer 4"."""
    known = [
        name.removesuffix("s") if following.isdecimal() and name in ("layers", "blocks", "stages") else name
        for name, following in zip(path, [*path[1:], ""], strict=True)
    ]
    return " ".join(known)


def _series(name: str) -> str:
    return re.sub(r"\d+", "*", name.partition(" ")[0])


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name.partition(" ")[0])]


def techniques(found: Sequence[Part]) -> list[str]:
    """The techniques that were tried on any part."""
    tried = dict.fromkeys(name for part in found for name in part.costs)
    return [name for name in TECHNIQUES if name in tried] + [name for name in tried if name not in TECHNIQUES]


def ranked(found: Sequence[Part]) -> list[Part]:
    """Parts that no other is a piece of, the tenderest first: by the mean, over the techniques tried on
    one, of its cost as a share of the highest that technique has anywhere."""
    pieces = [part for part in found if part.what] or list(found)
    pieces = [part for part in pieces if part.costs and all(map(math.isfinite, part.costs.values()))]
    most = {
        name: max(part.costs[name] for part in pieces if name in part.costs) for name in techniques(pieces)
    }

    def tenderness(part: Part) -> float:
        return fmean(cost / most[name] if most[name] > 0 else 0.0 for name, cost in part.costs.items())

    return sorted(pieces, key=tenderness, reverse=True)


def sentences(found: Sequence[Part]) -> list[str]:
    """What it means: the tenderest part and the hardiest, and the blocks that are missed most and least."""

    def worth_a_word(some: Sequence[Part]) -> bool:
        return any(value >= LEAST for part in some for value in part.costs.values())

    said, order = [], ranked(found)
    if found and not worth_a_word(found):
        return ["Nothing that was tried on one part alone cost anything worth a word."]
    if worth_a_word(order):
        said.append(f"{order[0].spoken} is the tenderest: {_costs(order[0].costs)}.")
        if len(order) > 1:
            said.append(f"{order[-1].spoken} is the hardiest: {_costs(order[-1].costs)}.")
    whole = [part for part in found if math.isfinite(part.costs.get(LEFT_OUT, math.nan))]
    if len(whole) > 1:
        whole.sort(key=lambda part: part.costs[LEFT_OUT])
        least, most = whole[0], whole[-1]
        said.append(
            f"Left out whole, {least.block} costs least ({cost(least.costs[LEFT_OUT])}) "
            f"and {most.block} most ({cost(most.costs[LEFT_OUT])})."
        )
    return said


def _costs(costs: Mapping[str, float]) -> str:
    """Such as: int8 costs 0.02 of fidelity, half its neurons 0.4."""
    told = [(name, cost(costs[name])) for name in techniques([Part("", "", dict(costs))])]
    first, *others = told
    return ", ".join(
        [f"{first[0]} costs {first[1]} of fidelity", *(f"{name} {figure}" for name, figure in others)]
    )


def cost(value: float) -> str:
    """A cost with as many decimals as say something, four at most."""
    if not math.isfinite(value):
        return units.figure(value)
    if value < LEAST:
        return f"<{LEAST:g}" if value > 0 else "0"
    decimals = 4 if value < 0.01 else 3 if value < 0.1 else 2
    return f"{value:.{decimals}f}"


def show(manifest: Manifest) -> Markup | None:
    """The section; nothing where no part was tried alone."""
    found = parts(manifest.sensitivities)
    if not found:
        return None
    columns = techniques(found)
    heads = [Cell("Part"), *(Cell(name, "number") for name in columns)]
    aside = [
        badge("measured", manifest.host.processor),
        tag(
            "p",
            "Each technique on one part alone, and the fidelity to the original that it costs, over a few "
            "calibration samples. Costs of several parts do not simply add up: they say where the model is "
            "tender, not what a recipe will lose.",
        ),
    ]
    rows = [
        [Cell(breakable(part.name)), *(_cell(part.costs.get(name)) for name in columns)] for part in found
    ]
    return section(
        "sensitivity",
        "Sensitivity",
        aside,
        tag("p", " ".join(sentences(found))),
        table("Fidelity lost, in the model’s order", heads, rows, "heat"),
        _legend(),
    )


def _cell(value: float | None) -> Cell:
    if value is None:
        return Cell(units.NONE, "number blank")
    level = f" heat-{bisect_right(LEVELS, value)}" if math.isfinite(value) else ""
    return Cell(cost(value), f"number{level}")


def _legend() -> Markup:
    steps: list[Content] = [
        tag("span", f"{least:g}", class_=f"heat-{level}") for level, least in enumerate((0, *LEVELS))
    ]
    return tag("p", "The colours begin at a cost of ", tag("span", steps, class_="scale"), class_="legend")
