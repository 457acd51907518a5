"""The processors that are emulated, and how each tells programs what it is."""

from __future__ import annotations

from dataclasses import dataclass

from openglm.errors import InputError, nearest


@dataclass(frozen=True)
class Cpu:
    """A processor core as QEMU emulates it."""

    name: str
    title: str
    model: str
    """What QEMU's option -cpu takes."""
    part: int
    """Arm's number for it, in the register MIDR_EL1."""
    features: str
    """As Linux names them in /proc/cpuinfo."""

    @property
    def cpuinfo(self) -> str:
        """The text of /proc/cpuinfo on it: inference engines choose their kernels by that."""
        return (
            f"processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {self.part:#05x}\nCPU revision\t: 4\n\n"
        )


_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_DOT = f"{_BASE} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

# QEMU 7.2's "max" with SVE gives wrong int8 results. It is no chip: the part is Neoverse V1, with i8mm.
CPUS = {
    cpu.name: cpu
    for cpu in (
        Cpu("cortex-a53", "Cortex-A53, Armv8.0: no dot product", "cortex-a53", 0xD03, f"{_BASE} cpuid"),
        Cpu("cortex-a76", "Cortex-A76, Armv8.2 with dot product", "cortex-a76", 0xD0B, _DOT),
        Cpu(
            "armv8.6-i8mm",
            "Armv8.6 with int8 matrix multiply",
            "max,sve=off,sme=off",
            0xD40,
            f"{_DOT} jscvt fcma sha3 sha512 asimdfhm dit uscat ilrcpc flagm ssbs sb dcpodp i8mm bf16",
        ),
    )
}


def cpu(name: str) -> Cpu:
    """The processor of that name; raises `InputError` where none has it."""
    if name not in CPUS:
        raise InputError(f"There is no emulated processor '{name}'.", nearest(name, CPUS))
    return CPUS[name]
