"""How commands speak: tables for people on stdout, progress on stderr, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console


class _Console(Console):
    """A console that lets a closed pipe (`| head`) reach `main`, which ends quietly."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on stdout, exactly as a program wants it: no colour, no wrapping.

    NaN and infinities, which JSON does not have, become null.
    """
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    print(json.dumps(plain, indent=2, ensure_ascii=False))
