"""Tables in docs/benchmarks.md: a benchmark writes its own between two markers, and only there."""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from openglm.runtimes import measure

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_INSTRUCTIONS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table, its first `left` columns to the left and the others to the right."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def machine(threads: int, versions: Mapping[str, str]) -> str:
    """The machine and the versions, in one sentence each."""
    here = measure.host("onnxruntime", threads)
    try:
        known = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        known = []
    has = [name for name in _INSTRUCTIONS if name in known]
    with_these = f" with {', '.join(has)}" if has else ""
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"Measured on {here.processor}{with_these}, {here.cores} cores, {here.system}; threads: {threads}. "
        f"Python {platform.python_version()}, {packages}."
    )


def publish(name: str, text: str, given: argparse.Namespace, versions: Mapping[str, str], how: str) -> None:
    """Print what a benchmark found on one thread, and put it into the docs where that is wanted."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    where = f"{machine(1, versions)} {how}".strip()
    text = f"{text}\n\n{where}\n\n```sh\n{command}\n```"
    print(f"\n{name}\n\n{text}\n", flush=True)
    if given.write_docs:
        write(name, text)


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Put `text` between the markers of `name`; raises `SystemExit` where the page has none."""
    begin, end = f"<!-- {name}: written by the benchmark -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no markers for '{name}': {begin} and {end}.")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
