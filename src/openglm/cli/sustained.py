"""How a lasting load is told: in lines, and as a small plot of its course."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openglm.cli.console import figure, out

if TYPE_CHECKING:
    from openglm.device.sustain import Sustained

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 30


def show(found: Sustained) -> None:
    """Print what becomes of the load, its ranges, and its course over time."""
    asked = f"at {figure(found.asked_per_s)} a second" if found.asked_per_s else "back to back"
    lasts = f"For {time(found.duration_s)} {asked}"
    most, least = found.most_per_s_range[1], found.most_per_s_range[0]
    if found.asked_per_s:
        open_ = " probably" if least < found.asked_per_s <= most else ""
        verdict = (
            f"it can{open_} be held"
            if found.held
            else f"it {'can probably not' if open_ else 'cannot'} be held"
        )
    else:
        verdict = "it stays as fast as it was" if found.held else "it gets slower"
    colour = "green" if found.held else "red" if found.asked_per_s else "yellow"
    out().print(f"[bold]{lasts}:[/] [{colour}]{verdict}[/]", soft_wrap=True)
    low, high = found.end_ms_range
    lines = [
        f"latency     {figure(found.start_ms)} ms at the start, {figure(found.end_ms)} ms at the end "
        f"({figure(low)} to {figure(high)})",
        f"throttles   {_onset(found)}",
        f"can hold    {figure(found.most_per_s)} a second ({figure(least)} to {figure(most)})",
        f"power       {figure(found.power_w)} W for the whole device"
        + (f"; {found.battery_hours:.1f} hours on a charge" if found.battery_hours else ", on mains"),
        f"case        {_course([moment.case_c for moment in found.course])}  "
        f"{found.course[0].case_c:.0f} to {found.course[-1].case_c:.0f} °C where it is warmest",
    ]
    for line in lines:
        out().print(f"  {line}", markup=False, soft_wrap=True)
    out().print(
        "  Predicted; in brackets where nine phones of ten would lie, as far as three measured ones tell.",
        style="dim",
        soft_wrap=True,
    )
    out().print()


def time(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 7200 else f"{seconds / 3600:.2g} h"


def _onset(found: Sustained) -> str:
    early, late = found.throttles_after_s_range
    if early is None and found.throttles_after_s is None:
        return "not in that time"
    told = (
        f"after {time(found.throttles_after_s)}"
        if found.throttles_after_s is not None
        else "probably not in that time"
    )
    latest = "not at all" if late is None else time(late)
    return f"{told} (from {time(early or 0.0)} to {latest})"


def _course(values: list[float]) -> str:
    """A line of blocks, each as high as its value between the lowest and the highest."""
    low, high = min(values), max(values)
    step = max(len(values) // WIDTH, 1)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in values[::step])
