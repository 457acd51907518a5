"""How commands speak: tables for people on stdout, progress on stderr, JSON for programs."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON on stdout, exactly as a program wants it: no colour, no wrapping."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
