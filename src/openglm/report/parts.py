"""What the page's sections are made of: frames, badges of where figures are from, tables, facts, codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from openglm.report import units
from openglm.report.markup import Content, Markup, tag

Origin = Literal["measured", "predicted"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `kind` is a class name such as "number"."""

    content: Content
    kind: str = ""


def section(anchor: str, title: str, aside: Content, *content: Content) -> Markup:
    """A section with its heading and what is said of its figures in the margin."""
    head = tag("header", tag("h2", title, id=f"{anchor}-title"), aside)
    return tag(
        "section", head, tag("div", content, class_="body"), id=anchor, aria_labelledby=f"{anchor}-title"
    )


def badge(origin: Origin, where: str) -> Markup:
    """Says of figures whether they are measured or predicted, and where."""
    word = tag("strong", origin, class_=f"badge {origin}")
    place = f"on {where}" if origin == "measured" else f"for {where}"
    return tag("p", word, " ", tag("span", place, class_="whole"), class_="origin")


def table(caption: str, heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], kind: str = "") -> Markup:
    """A table whose first column heads the rows. On a phone each row is a card, its cells named by `heads`.

    Roles are given because styles that lay a table out otherwise take its own away.
    """
    names = [str(head.content) for head in heads]
    top = tag("tr", [_head(head) for head in heads], role="row")
    body = [tag("tr", _row(row, names), role="row") for row in rows]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", top, role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
        role="table",
        class_=kind or None,
    )


def _head(cell: Cell) -> Markup:
    return tag("th", cell.content, scope="col", role="columnheader", class_=cell.kind or None)


def _row(cells: Sequence[Cell], names: Sequence[str]) -> list[Markup]:
    first, *rest = cells
    head = tag("th", first.content, scope="row", role="rowheader", class_=first.kind or None)
    return [
        head,
        *(
            tag("td", cell.content, role="cell", class_=_kinds(cell) or None, data_label=name)
            for cell, name in zip(rest, names[1:], strict=True)
        ),
    ]


def _kinds(cell: Cell) -> str:
    """Class names; cells that hold nothing have one more, as cards leave them out."""
    return f"{cell.kind} none".strip() if cell.content == units.NONE else cell.kind


def facts(pairs: Iterable[tuple[str, Content]]) -> Markup:
    """Terms and what they are."""
    return tag("dl", [tag("div", tag("dt", term), tag("dd", what)) for term, what in pairs], class_="facts")


def copyable(text: str) -> Markup:
    """Text with a button that copies it; the script shows the button."""
    button = tag("button", "Copy", type="button", hidden=True, class_="copy")
    return tag("div", tag("pre", tag("code", text), tabindex=0), button, class_="copyable")


def breakable(code: str) -> list[Content]:
    """A code that may break after each of its parts: the longest are wider than a phone."""
    pieces = re.split(r"(?<=[_.])(?=[A-Za-z])", code)
    return [piece if index == 0 else [tag("wbr"), piece] for index, piece in enumerate(pieces)]
