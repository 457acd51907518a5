"""Figures as people read them: human units, three digits, and a space that does not break."""

from __future__ import annotations

import math

NBSP = "\u00a0"
THIN = "\u202f"
NONE = "–"

UNSAID = 1e6
"""A factor beyond this is of a fault, not of a model."""


def figure(value: float) -> str:
    """Three significant digits without an exponent; all digits of the whole part."""
    magnitude = abs(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if magnitude >= 100:
        text = f"{value:,.0f}"
    elif magnitude >= 10:
        text = f"{value:.1f}"
    elif magnitude >= 0.01 or value == 0:
        text = f"{value:.2f}"
    else:
        text = f"{value:.1g}" if magnitude >= 1e-4 else f"{value:.0e}"
    return text.replace("-", "−")


def number(value: float) -> str:
    """A figure without needless zeros: 310, 0.5, 1.25."""
    return f"{value:,.6g}".replace("-", "−")


def size(count: float | None) -> str:
    """Bytes in decimal units, as storage is sold and budgets are given."""
    if count is None:
        return NONE
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(count) >= scale:
            return f"{figure(count / scale)}{NBSP}{unit}"
    return f"{count:,.0f}{NBSP}B"


def ms(value: float | None) -> str:
    """Milliseconds; seconds from ten thousand on, microseconds below a hundredth."""
    if value is None:
        return NONE
    if abs(value) >= 10_000:
        return f"{figure(value / 1000)}{NBSP}s"
    if 0 < abs(value) < 0.01:
        return f"{figure(value * 1000)}{NBSP}µs"
    return f"{figure(value)}{NBSP}ms"


def duration(seconds: float) -> str:
    """How long something took."""
    if not math.isfinite(seconds):
        return f"{figure(seconds)}{NBSP}s"
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h {minutes}{NBSP}min" if hours else f"{minutes}{NBSP}min {rest}{NBSP}s"


def times(factor: float | None) -> str:
    """A factor: 2.5×."""
    return NONE if factor is None else f"{figure(factor)}×"


def percent(share: float) -> str:
    """A share, whole percents where that says enough: 75 %, 0.4 %."""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 2 or value == 0 else f"{value:.1f}"
    return f"{text}{THIN}%".replace("-", "−")


def signed(share: float) -> str:
    """A change, with its sign: −75 %."""
    return "same" if abs(share) < 0.0005 else f"{'+' if share > 0 else ''}{percent(share)}"


def spread(low: float, high: float) -> str:
    """From the 10th to the 90th percentile, the unit once where both have the same."""
    first, last = ms(low), ms(high)
    if first.partition(NBSP)[2] == last.partition(NBSP)[2]:
        first = first.partition(NBSP)[0]
    return f"{first} to {last}"


def score(value: float | None) -> str:
    """A metric's value: four decimals about 1, four digits elsewhere."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return figure(value)
    return (f"{value:.4f}" if abs(value) < 10 else f"{value:,.6g}").replace("-", "−")


def small(value: float) -> str:
    """A difference of scores: two significant digits."""
    return f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.0e}"


def ratio(above: float | None, below: float | None) -> float | None:
    """`above / below`; None where that says nothing."""
    if above is None or below is None or below <= 0:
        return None
    found = above / below
    return found if 1 / UNSAID < found < UNSAID else None


def count(many: int, one: str, more: str | None = None) -> str:
    """A number with its noun: 1 recipe, 8 recipes."""
    return f"{many:,}{NBSP}{one if many == 1 else more or one + 's'}"
