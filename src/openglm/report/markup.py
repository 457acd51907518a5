"""HTML and SVG that cannot be put together wrongly: all text is escaped unless it is `Markup` already."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Content = object
"""What an element may hold: `Markup`, a number, text, None (nothing), or iterables of these, nested too."""

VOID = frozenset({"wbr"})

# No page may hold the first, and the others would turn the text that follows them around.
HIDDEN = dict.fromkeys((*range(9), *range(14, 32), 11, 12, *range(8234, 8239), *range(8294, 8298)), "�")


class Markup(str):
    """Text that is markup; anything else is escaped where it is put into an element."""

    __slots__ = ()


def join(content: Content) -> Markup:
    """`content` as markup, with all that is plain text escaped."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, Iterable) and not isinstance(content, str):
        return Markup("".join(map(join, content)))
    return Markup(_escape(content))


def tag(name: str, *content: Content, **attributes: object) -> Markup:
    """An element. In attribute names "_" stands for "-" and a trailing one is dropped, as in `class_`.

    An attribute that is None is left out; one that is True has no value.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{join(content)}</{name}>")


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
    return f' {key}="{_escape(text)}"'


def _escape(text: object) -> str:
    # A lone surrogate, as file names can hold, has no bytes in UTF-8: the page could not be written.
    return escape(str(text).translate(HIDDEN).encode("utf-8", "replace").decode("utf-8"))
