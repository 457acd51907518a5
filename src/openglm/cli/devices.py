"""`openglm devices`: which devices are known, and what is known of one, with sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from openglm.device.profile import Device, Unit

LIST_HELP = """List the phones, boards and computers that a model can be fitted to.

\b
Peaks are in TOPS, 10^12 operations a second, at the precision named behind them.
`app` is the memory that one app may take. `host` is this machine, and measured
only when it is used.

\b
Examples:
  openglm devices
  openglm devices show snapdragon-8-gen-3
  openglm devices --json
"""

SHOW_HELP = """Show every figure of one device, with its unit and where it is from.

NAME is one that `openglm devices` lists, `host` for this machine (measured in about
two seconds the first time), or the path of your own .toml file.

\b
Examples:
  openglm devices show cortex-a53-2gb
  openglm devices show host --json
  openglm devices show mid-range-a76 --toml > my-phone.toml   (start your own from it)
  openglm devices show ./my-phone.toml
"""

WIDE = 118  # columns of a terminal from which on title, year and battery fit too


class Figure(NamedTuple):
    """One line of `devices show`."""

    label: str
    value: str
    unit: str
    source: str


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(help=LIST_HELP, rich_markup_mode=None, add_completion=False)
    group.callback(invoke_without_command=True)(devices)
    group.command(help=SHOW_HELP)(show)
    app.add_typer(group, name="devices", short_help="List devices, or show one with its sources.")


def devices(
    context: typer.Context,
    json: bool = typer.Option(False, "--json", help="Print JSON for programs."),
) -> None:
    if context.invoked_subcommand is not None:
        return
    from openglm.device import profile

    known = [profile.load(name) for name in profile.names() if name != "host"]
    if json:
        from openglm.cli.console import print_json

        print_json([_summary(device) for device in known] + [{"name": "host", "title": "this machine"}])
        return
    _print_list(known)


def show(
    name: str = typer.Argument(metavar="NAME", help="A device's name, or the path of a .toml file."),
    json: bool = typer.Option(False, "--json", help="Print the profile as JSON."),
    toml: bool = typer.Option(False, "--toml", help="Print the profile as TOML, to start your own from."),
) -> None:
    if json and toml:
        raise typer.BadParameter("Choose one of --json and --toml.")
    from openglm.device import profile

    device = profile.load(name)
    if json:
        from openglm.cli.console import print_json

        print_json(device.model_dump(mode="json"))
    elif toml:
        print(profile.dumps(device), end="")
    else:
        _print_device(device)


def _summary(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "title": device.title,
        "tier": device.tier,
        "year": device.year,
        "ram_gb": device.memory.ram_gb,
        "app_memory_mb": device.app_memory_mb,
        "bandwidth_gb_s": device.memory.bandwidth_gb_s,
        "units": [{"name": u.name, "kind": u.kind, "peak_gops": u.peak_gops} for u in device.units],
        "battery_wh": device.battery_wh,
    }


def _best(unit: Unit) -> str:
    """The highest peak of a unit and its precision: "45.0 int8", in TOPS."""
    precision, peak = max(unit.peak_gops.items(), key=lambda item: item[1])
    digits = 2 if peak < 10_000 else 1 if peak < 100_000 else 0
    return f"{peak / 1000:.{digits}f} {precision}"


def _print_list(known: list[Device]) -> None:
    from rich.table import Table

    from openglm.cli.console import out

    wide = out().width >= WIDE
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("device", no_wrap=True)
    if wide:
        # The only column that gives way, so that names and figures stay whole.
        table.add_column("what it is", overflow="ellipsis", no_wrap=True, max_width=out().width - 88)
        table.add_column("year", no_wrap=True)
    table.add_column("tier", no_wrap=True)
    for heading in ("RAM\nGB", "app\nGB", "mem\nGB/s", "CPU\nTOPS", "GPU\nTOPS", "NPU\nTOPS"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        table.add_column("bat.\nWh", justify="right", no_wrap=True)
    tiers = ("flagship", "mid", "low", "laptop", "board", "desktop")
    for device in sorted(known, key=lambda device: (tiers.index(device.tier), -device.year, device.name)):
        peaks = {unit.kind: _best(unit) for unit in reversed(device.units)}
        row = [device.name]
        row += [device.title, str(device.year)] if wide else []
        row += [device.tier, f"{device.memory.ram_gb:g}", f"{device.app_memory_mb / 1000:g}"]
        row += [
            f"{device.memory.bandwidth_gb_s:.0f}",
            *(peaks.get(kind, "-") for kind in ("cpu", "gpu", "npu")),
        ]
        row += [f"{device.battery_wh:.1f}" if device.battery_wh else "-"] if wide else []
        table.add_row(*row)
    table.add_row("host", *(["This machine, measured on demand", ""] if wide else []), "host")
    out().print(table)
    out().print()
    out().print("Every figure with its source: openglm devices show NAME", soft_wrap=True)
    out().print(
        "A device of your own:         openglm devices show NAME --toml > my-phone.toml", soft_wrap=True
    )


def _print_device(device: Device) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from openglm.cli.console import out

    out().print(Text(device.title, style="bold"))
    out().print(Text(f"{device.name}, {device.tier}, {device.year}\n"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("source", overflow="fold")
    for heading, figures in _sections(device):
        table.add_row(Text(heading, style="bold"))
        for figure in figures:
            # As Text, because a source may hold brackets, which are markup otherwise.
            table.add_row(f"  {figure.label}", figure.value, figure.unit, Text(figure.source))
        table.add_section()
    out().print(table)


def _sections(device: Device) -> list[tuple[str, list[Figure]]]:
    """Every figure of a profile, in groups with a heading."""

    def figure(label: str, value: float, unit: str, path: str) -> Figure:
        return Figure(label, f"{value:,.10g}", unit, device.sources[path])

    memory = device.memory
    general = [
        figure("RAM", memory.ram_gb, "GB", "memory.ram_gb"),
        figure("share for one app", memory.app_share, "", "memory.app_share"),
        figure("bandwidth", memory.bandwidth_gb_s, "GB/s", "memory.bandwidth_gb_s"),
        figure("storage read", device.storage_read_mb_s, "MB/s", "storage_read_mb_s"),
    ]
    energy = [figure("idle", device.idle_power_w, "W", "idle_power_w")]
    if device.battery_wh is not None:
        energy.append(figure("battery", device.battery_wh, "Wh", "battery_wh"))
    if device.thermal.sustained_fraction is not None:
        energy.append(
            figure("sustained speed", device.thermal.sustained_fraction, "", "thermal.sustained_fraction")
        )
    sections = [("memory and storage", general)]
    for unit in device.units:
        path = f"units.{unit.name}"
        lines = [
            figure(f"peak {p}", peak, "GOPS", f"{path}.peak_gops.{p}") for p, peak in unit.peak_gops.items()
        ]
        if unit.kind == "cpu":  # elsewhere 1 by convention
            lines.append(figure("cores", unit.cores, "", f"{path}.cores"))
        lines += [
            figure("efficiency", unit.efficiency, "", f"{path}.efficiency"),
            figure("power", unit.power_w, "W", f"{path}.power_w"),
        ]
        kind = unit.kind.upper()
        sections.append((kind if unit.name == unit.kind else f"{kind} ({unit.name})", lines))
    return [*sections, ("energy and heat", energy)]
