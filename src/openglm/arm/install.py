"""Sets up ARM emulation in the user's cache: QEMU, a small ARM root folder, and the engine's ARM build."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from openglm.arm.cpus import CPUS, Cpu
from openglm.errors import InputError
from openglm.hashing import sha256

NAME = "arm-emulation"
COMMAND = f"openglm doctor --install {NAME}"
QEMU = "qemu-aarch64"
INSIDE = Path(__file__).with_name("inside.py")
COUNTER = Path(__file__).with_name("counter.c")

_RECORD = "emulation.json"
_ROOT, _SITE, _QEMU, _COUNTER = "root", "site", "qemu", "counter.so"
_ENGINE = ("numpy", "onnxruntime")
_PYTHON = ("python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib")
_LIBRARIES = (
    "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0",
    "liblzma5", "libuuid1", "libcrypt1",
)  # fmt: skip
_PLUGIN_VERSIONS = (1, 2, 3, 4)
"""Of QEMU's plugin interface: QEMU says which it takes by refusing others."""


class Emulation(BaseModel):
    """What was set up, as its folder's record tells it."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    python: str
    """Of the ARM packages."""
    packages: dict[str, str]
    """The engine's Python packages and their versions, those of this machine."""
    qemu: str
    """QEMU's version."""
    program: Path
    """Of QEMU."""
    source: str
    """The hash of the counter's source."""
    uncounted: str | None
    """Why instructions cannot be counted, where they cannot."""

    @cached_property
    def interpreter(self) -> Path:
        """ARM's Python."""
        return self.folder / _ROOT / f"usr/bin/python{self.python}"

    def command(self, cpu: Cpu, counts: Path | None, *arguments: str) -> list[str]:
        """What runs ARM's Python on a processor; with `counts`, marks are told of in that file."""
        library, file = (str(path).replace(",", ",,") for path in (self.folder / _COUNTER, counts))
        return [
            *[str(self.program), "-U", "LD_LIBRARY_PATH", "-cpu", cpu.model],
            *["-L", str(self.folder / cpu.name)],
            *(["-plugin", f"{library},out={file}"] if counts else []),
            *[str(self.interpreter), "-B", *arguments],
        ]

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables it runs with, and no others: the same instructions whoever runs it."""
        libraries = {str(path.parent) for path in (self.folder / _QEMU).rglob("*.so.*")}
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries)),
            "PYTHONPATH": str(self.folder / _SITE),
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
        }


def home() -> Path:
    """Where it is, or would be."""
    from platformdirs import user_cache_path

    cache = os.environ.get("OPENGLM_CACHE")
    return (Path(cache) if cache else user_cache_path("openglm")) / NAME


def installed() -> Emulation | None:
    """What was set up, for the engine's version that is here; none where that is not whole."""
    folder = home().resolve()
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        found = Emulation.model_validate({**record, "folder": folder, "program": folder / record["program"]})
    except (OSError, ValueError, TypeError, KeyError):  # not there, or broken
        return None
    same = found.packages == _packages() and found.source == sha256(COUNTER)
    return found if same and found.program.is_file() and found.interpreter.is_file() else None


def needed() -> Emulation:
    """What was set up; raises `InputError` where nothing was."""
    found = installed()
    if found is None:
        raise InputError(
            "ARM emulation is not set up for this machine's ONNX Runtime.", f"Set it up once: {COMMAND}."
        )
    return found


def install(progress: Callable[[str], None] = lambda _: None) -> tuple[Emulation, bool]:
    """Set up ARM emulation, and try it; with whether that was done now. Some 100 MB.

    A second call finds the first one's and leaves it, unless instructions could not be counted with it.
    Raises `InputError` where packages cannot be had; then nothing stays behind.
    """
    from filelock import FileLock

    target = home()
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{NAME}.lock")):
        found = installed()
        if found is not None and not found.uncounted:
            return found, False
        for left in target.parent.glob(f".{NAME}-*"):  # of a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as name:
            work, old = Path(name) / "new", Path(name) / "old"
            made = _fill(work, Path(name), progress)
            (work / _RECORD).write_text(made.model_dump_json(indent=1, exclude={"folder"}), encoding="utf-8")
            if target.exists():
                target.rename(old)
            work.rename(target)
    return needed(), True


def _fill(work: Path, scratch: Path, progress: Callable[[str], None]) -> Emulation:
    """Bring and put together all that belongs into the folder `work`, and try it."""
    from openglm.arm.fetch import Apt, wheels

    progress("asking apt what it has")
    apt = Apt(scratch / "apt")
    python = apt.python()
    here = shutil.which(QEMU)
    if here is None:
        progress("fetching QEMU")
        apt.own("qemu-user", work / _QEMU)
        for path in (work / _QEMU / "usr/bin").iterdir():  # those for other processors take 100 MB
            if path.name != QEMU:
                path.unlink()
    progress("fetching ARM packages")
    apt.arm([*_LIBRARIES, *(name.format(python) for name in _PYTHON)], work / _ROOT)
    progress("fetching ONNX Runtime for ARM")
    wheels(_packages(), python, scratch, work / _SITE)
    if not (work / _ROOT / "lib").exists():  # where everything lies under /usr, a package not taken links it
        (work / _ROOT / "lib").symlink_to("usr/lib")
    for cpu in CPUS.values():
        (work / cpu.name / "proc").mkdir(parents=True)
        (work / cpu.name / "proc/cpuinfo").write_text(cpu.cpuinfo, encoding="utf-8")
        for name in ("usr", "lib"):
            (work / cpu.name / name).symlink_to(f"../{_ROOT}/{name}")
    made = Emulation(
        folder=work,
        python=python,
        packages=_packages(),
        qemu="",
        program=Path(here) if here else Path(_QEMU) / "usr/bin" / QEMU,
        source=sha256(COUNTER),
        uncounted=None,
    )
    placed = made.model_copy(update={"program": work / made.program})
    progress("trying it")
    for cpu in CPUS.values():
        _try(placed, cpu)
    told = _run([str(placed.program), "--version"], placed)
    uncounted = _build_counter(placed, scratch / "counts")
    return made.model_copy(update={"qemu": told.stdout.split()[2], "uncounted": uncounted})


def _packages() -> dict[str, str]:
    return {name: version(name) for name in _ENGINE}


def _try(emulation: Emulation, cpu: Cpu) -> None:
    """Start the engine on a processor; raises `InputError` where it does not."""
    code = "import onnxruntime; print(onnxruntime.__version__)"
    # The first start writes what Python compiles, for all later ones.
    command = [item for item in emulation.command(cpu, None, "-c", code) if item != "-B"]
    done = _run(command, emulation)
    if done.stdout.strip() != emulation.packages["onnxruntime"]:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].removesuffix(".")
        raise InputError(
            f"ONNX Runtime does not start on an emulated {cpu.title.partition(':')[0]}: {said}.",
            f"Install another version of {QEMU}, 7.2 or newer, and run again.",
        )


def _build_counter(emulation: Emulation, counts: Path) -> str | None:
    """Compile the counter for the QEMU that is here; why that cannot be, where it cannot."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "there is no C compiler (cc) to build the counter with"
    cpu = next(iter(CPUS.values()))
    said = ""
    for number in _PLUGIN_VERSIONS:
        library = emulation.folder / _COUNTER
        command = [compiler, "-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={number}", "-o", str(library)]
        built = subprocess.run([*command, str(COUNTER)], capture_output=True, text=True)
        if built.returncode:
            return f"cc cannot build the counter ({_last(built.stderr)})"
        run = _run(emulation.command(cpu, counts, "-c", "import os; os.getsid(0)"), emulation)
        if run.returncode == 0 and counts.is_file() and counts.read_text(encoding="utf-8").strip():
            return None
        said = said or run.stderr
    return f"{QEMU} takes no plugin ({_last(said)})"


def _run(command: list[str], emulation: Emulation) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=emulation.environment, capture_output=True, text=True)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1].strip().removesuffix(".")
