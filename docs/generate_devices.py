"""Writes the table of devices and the example profile into docs/devices.md from the profiles themselves.

python docs/generate_devices.py           write
python docs/generate_devices.py --check   fail if the page is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from openglm.device import profile

PAGE = Path(__file__).with_name("devices.md")
EXAMPLE = "cortex-a53-2gb"


def device_table() -> str:
    lines = [
        "| name | device | tier | RAM, GB | one app, GB | memory, GB/s | CPU, TOPS | GPU, TOPS | NPU, TOPS |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in profile.names():
        if name == "host":
            lines.append("| `host` | this machine, measured on demand | host | | | | | | |")
            continue
        device = profile.load(name)
        peaks = {unit.kind: max(unit.peak_gops.items(), key=lambda item: item[1]) for unit in device.units}
        cells = [f"`{name}`", f"{device.title}, {device.year}", device.tier]
        cells += [
            f"{device.memory.ram_gb:g}",
            f"{device.app_memory_mb / 1000:g}",
            f"{device.memory.bandwidth_gb_s:g}",
        ]
        cells += [
            f"{peaks[k][1] / 1000:.3g} {peaks[k][0]}" if k in peaks else "-" for k in ("cpu", "gpu", "npu")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds_of_source() -> str:
    """How many figures are published, derived, fitted or assumed, over all profiles."""
    counts = dict.fromkeys(("published", "derived", "fitted", "assumed"), 0)
    for name in profile.names():
        if name == "host":
            continue
        for source in profile.load(name).sources.values():
            if not source.startswith("by convention"):
                first = source.split()[0].strip(":")
                counts[first if first in counts else "published"] += 1
    return "\n".join(
        ["| kind | figures |", "|---|--:|", *(f"| {kind} | {count} |" for kind, count in counts.items())]
    )


def example() -> str:
    device = profile.load(EXAMPLE)
    sources = dict.fromkeys(device.sources, "where this figure is from")
    mine = device.model_copy(update={"name": "my-phone", "title": "My phone", "sources": sources})
    return f"```toml\n{profile.dumps(mine)}```"


def page(text: str) -> str:
    """`text` with what stands between each pair of markers written anew."""
    for marker, content in (("table", device_table()), ("kinds", kinds_of_source()), ("example", example())):
        start, end = f"<!-- {marker}: written by docs/generate_devices.py -->\n", f"<!-- end {marker} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise SystemExit(f"{PAGE.name} needs one pair of markers for '{marker}'.")
        before, rest = text.split(start)
        text = before + start + content + "\n" + end + rest.split(end)[1]
    return text


def main() -> None:
    before = PAGE.read_text(encoding="utf-8")
    after = page(before)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(after, encoding="utf-8")
    elif before != after:
        raise SystemExit(f"{PAGE.name} is not up to date. Run: python docs/generate_devices.py")


if __name__ == "__main__":
    main()
