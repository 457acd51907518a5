"""How commands speak: tables for people on stdout, progress on stderr, JSON for programs."""

from __future__ import annotations

import json
import shlex
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from openglm.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console


@cache
def out() -> Console:
    """The console of results, on stdout."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """The console of progress, on stderr."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    class Piped(Console):
        """A console that lets a closed pipe (`| head`) reach `main`, which ends quietly."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(stderr=stderr, highlight=False)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on stdout, exactly as a program wants it: no colour, no wrapping.

    NaN and infinities, which JSON does not have, become null.
    """
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    print(json.dumps(plain, indent=2, ensure_ascii=False))


def figure(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"


def listed(text: str) -> list[str]:
    """Names joined by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_seconds(text: str) -> float:
    """Read "90s", "10m" or "1h"; raises `InputError` where it does not read like that."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        return float(number) * units[unit]
    except ValueError:
        raise InputError(f"'{text}' is no time.", "Give one such as 90s, 10m or 1h.") from None


def command_line() -> str:
    """The command as it was typed, for a record of how something was made."""
    return " ".join(["openglm", *map(shlex.quote, sys.argv[1:])])
