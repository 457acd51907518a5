"""Packages of another processor, from the sources that this machine's own apt and pip are set up for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from openglm.errors import InputError

_ARM = "arm64"
_GLIBC = range(17, 37)
"""The second numbers of the glibc versions, from 2.17 to Debian 12's, that a wheel may be built for."""


class Apt:
    """apt with a state of its own in `folder`: the machine's is neither read nor changed, and anyone may.

    Raises `InputError` where apt is not here, or its sources cannot be reached.
    """

    def __init__(self, folder: Path) -> None:
        lacking = [name for name in ("apt-get", "apt-cache", "dpkg-deb", "dpkg") if not shutil.which(name)]
        if lacking:
            raise InputError(
                f"ARM emulation is made of Debian packages, and {lacking[0]} is not on this machine.",
                "Use Debian, or a container of it.",
            )
        state = folder / "state"
        (state / "lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        (state / "status").touch()
        self._host = _run(["dpkg", "--print-architecture"]).strip()
        options = {
            "APT::Architecture": self._host,
            "Dir::State": state,
            "Dir::State::status": state / "status",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "",  # root's own folders are closed to apt's user
            "APT::Get::List-Cleanup": "0",
        }
        self._options = [item for name, value in options.items() for item in ("-o", f"{name}={value}")]
        for name in {self._host, _ARM}:
            self._options += ["-o", f"APT::Architectures::={name}"]
        self._folder = folder
        _run(["apt-get", *self._options, "update"])

    def python(self) -> str:
        """The version of Python that ARM packages have, such as "3.11"."""
        found = re.search(r"python(3\.\d+)-minimal", self._cache("depends", f"python3-minimal:{_ARM}"))
        if found is None:
            raise InputError(
                "apt knows no Python for arm64.", "Check that its sources can be reached: apt-get update."
            )
        return found[1]

    def arm(self, names: Iterable[str], target: Path) -> None:
        """Unpack ARM packages into a folder."""
        self._unpack([f"{name}:{_ARM}" for name in names], target)

    def own(self, name: str, target: Path) -> None:
        """Unpack a package of this machine's kind and all that it needs but the C library."""
        needs = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        told = self._cache("depends", "--recurse", *(f"--no-{kind}" for kind in needs), name)
        names = [line for line in told.splitlines() if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", line)]
        self._unpack([each for each in dict.fromkeys(names) if each != "libc6"], target)

    def _cache(self, *arguments: str) -> str:
        return _run(["apt-cache", *self._options, *arguments])

    def _unpack(self, names: Sequence[str], target: Path) -> None:
        folder = self._folder / target.name
        folder.mkdir()
        target.mkdir(parents=True)
        _run(["apt-get", *self._options, "download", *names], folder)
        for package in sorted(folder.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(target)])


def wheels(versions: Mapping[str, str], python: str, folder: Path, target: Path) -> None:
    """Unpack the ARM wheels of Python packages, which pip brings into `folder`, into `target`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation=cp", f"--python-version={python}", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{number}_aarch64" for number in _GLIBC]
    command += ["--platform=manylinux2014_aarch64"]
    _run([*command, *(f"{name}=={version}" for name, version in versions.items())])
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    """What a command prints; raises `InputError` with its last complaint where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.splitlines() or ["no reason given"]
        said = [line for line in lines if re.match(r"E:|ERROR:|.*No module named pip", line)]
        reason = (said or lines)[-1].strip().removesuffix(".")
        name = "pip" if command[0] == sys.executable else command[0]
        raise InputError(
            f"{name} could not bring what ARM emulation needs: {reason}.",
            "Check that its sources can be reached from here, and run again.",
        )
    return done.stdout
