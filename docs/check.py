"""Run the commands that README.md and docs/ show, and compare what they print.

A block fenced as ```console holds commands after "$ " and what they print. All blocks of a page run
in order in one folder of their own, in which `demo-bundle` is the bundle that `make demo` makes.
Numbers may differ from run to run and spacing with them: both are left out of the comparison, and a
line of "..." stands for any lines. A block fenced as ```console measured prints what depends on the
machine's speed: of its commands the exit code alone must be right. A command that ends in
"# exits N" has to exit with N. Blocks fenced as ```python are run too, each as a script of its own.

    python docs/check.py            fails where a page has drifted
    python docs/check.py --update   writes what the commands print now into the pages
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(console measured|console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "TERM": "dumb",
}


def run(command: str, folder: Path) -> str:
    """What a command prints on stdout and stderr; ends the check where its exit code is wrong."""
    text, _, comment = command.partition("# exits ")
    wanted = int(comment or 0)
    done = subprocess.run(
        text,
        shell=True,
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != wanted:
        sys.exit(f"`{text.strip()}` exits {done.returncode} where the page says {wanted}:\n{done.stdout}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def pairs(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output shown under it."""
    found: list[tuple[str, str]] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def same(shown: str, printed: str) -> bool:
    """Whether a command prints what the page shows, numbers and spacing aside."""
    pattern = ".*".join(re.escape(plain(part)) for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE))
    return re.fullmatch(pattern, plain(printed), re.DOTALL) is not None


def plain(text: str) -> str:
    text = re.sub(r"[╭─╮│╰╯━╸]+", " ", text)
    return " ".join(re.sub(r"\d[\d.,:]*(e[-+]?\d+)?", "#", text).split())


def check(page: Path, folder: Path, update: bool) -> list[str]:
    """The commands of a page whose output has drifted; with `update` the page is written anew."""
    drifted: list[str] = []

    def redo(match: re.Match[str]) -> str:
        if match[1] == "python":
            print(f"  python: {match[2].splitlines()[0]} ...", flush=True)
            (folder / "example.py").write_text(match[2], encoding="utf-8")
            run(f"{sys.executable} example.py", folder)
            return match[0]
        measured, lines = match[1] != "console", []
        for command, shown in pairs(match[2]):
            print(f"  $ {command}", flush=True)
            printed = run(command, folder)
            if not measured and not update and not same(shown, printed):
                drifted.append(
                    f"{page.relative_to(ROOT)}: $ {command}\n--- shown\n{shown}--- printed\n{printed}"
                )
            keeps = "...\n" in shown and same(shown, printed)
            lines.append(f"$ {command}\n{shown if keeps else printed}")
        return f"```{match[1]}\n{''.join(lines)}```"

    text = page.read_text(encoding="utf-8")
    renewed = BLOCK.sub(redo, text)
    if update and renewed != text:
        page.write_text(renewed, encoding="utf-8")
    return drifted


def main() -> None:
    update = "--update" in sys.argv
    print("$ make demo", flush=True)
    subprocess.run(["make", "demo"], cwd=ROOT, check=True)
    drifted = []
    for page in PAGES:
        print(page.relative_to(ROOT), flush=True)
        with tempfile.TemporaryDirectory() as name:
            shutil.copytree(
                ROOT / "demo-bundle", Path(name) / "demo-bundle", ignore=shutil.ignore_patterns("study")
            )
            drifted += check(page, Path(name), update)
    generated = [sys.executable, str(ROOT / "docs/generate_devices.py"), *([] if update else ["--check"])]
    if subprocess.run(generated).returncode:
        drifted.append("docs/devices.md: its generated parts")
    if drifted:
        sys.exit(
            "\n".join(drifted)
            + f"\n{len(drifted)} commands print other things. `make docs` renews the pages."
        )
    print("The pages show what the commands print.")


if __name__ == "__main__":
    main()
