"""A bundle's recorded outputs, proven on an emulated ARM processor."""

from __future__ import annotations

from pathlib import Path

from openglm.arm.cpus import cpu
from openglm.arm.emulator import Emulator
from openglm.bundle.manifest import FILE, Manifest
from openglm.bundle.store import opened
from openglm.dynamic.session import Agreement, agreement
from openglm.errors import InputError, VerificationError


def verify(bundle: Path, name: str) -> tuple[Agreement, Manifest]:
    """Run a bundle's probes on the processor of that name, as `Session.verify` does here.

    The whole program runs: its segments on the emulated processor, its gates on the host, whose numpy they
    are. Raises as `load` and `Session.verify` do, `InputError` where ARM emulation is not set up.
    """
    with opened(bundle) as (folder, manifest), Emulator(cpu(name)) as emulator:
        try:
            runner = emulator.open(folder / FILE)
        except InputError as error:
            raise VerificationError(error.problem, "Make the bundle again.") from error
        return agreement(folder, manifest, runner.run), manifest
