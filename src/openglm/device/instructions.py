"""Latency on an ARM CPU from the instructions that an inference takes on an emulated core like its own.

    seconds = factor * (max(instructions / started, multiplications / multiplied) + bytes / bandwidth)

with multiplications those of vectors, and `started` and `multiplied` what the cores do of each in a second.
That is the roofline with what an engine's kernels take in place of what their arithmetic needs, and waiting
for memory beside it. One factor is learnt from measurements (`phone/learn.py`), and how far it is off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from openglm.device.latency import BANDWIDTH_SHARE
from openglm.device.profile import Device, Unit
from openglm.errors import InputError
from openglm.model.analysis.statistics import Statistics
from openglm.writing import replacing

Core = Literal["cortex-a53", "cortex-a76", "armv8.6-i8mm"]

MULTIPLIED = 1 / 8
"""Multiplications of vectors that a core starts while its peak does one fp32 operation: four floats
multiplied and added are eight."""

STARTED: dict[Core, float] = {"cortex-a53": 2 / 8, "cortex-a76": 4 / 16, "armv8.6-i8mm": 5 / 16}
"""Instructions of any kind, by emulated core: what a Cortex-A53, an A76 and an A720 start in a cycle over
what they do in fp32. A55, A78 and Oryon have a quarter as well (2 / 8, 4 / 16, 8 / 32), X4 10 / 32."""

WITHOUT_DOT, WITH_MATRICES = 2, 8
"""The peak in int8 is less than the first times that in fp32 on cores that have no dot product, and no less
than the second on those that multiply matrices (docs/devices.md)."""

ADVICE = "`openglm compare MODEL --cpu {} --counts FILE` counts."


class Counted(BaseModel):
    """What one inference of a model takes, on one thread of an emulated core."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """As the user called it."""
    graph: str
    """The digest of what was counted."""
    cpu: Core
    shape: dict[str, int]
    engine: str
    instructions: int = Field(gt=0)
    floats: int = Field(ge=0)
    integers: int = Field(ge=0)
    dots: int = Field(ge=0)
    matrices: int = Field(ge=0)
    """Of the instructions those that multiply vectors, by kind."""

    def nominal_ms(self, statistics: Statistics, device: Device, unit: Unit, threads: int) -> float:
        """Milliseconds on the cores of `unit`, without the factor."""
        rate = unit.peak("fp32", threads) * 1e6
        multiplications = self.floats + self.integers + self.dots + self.matrices
        started = max(self.instructions / (STARTED[self.cpu] * rate), multiplications / (MULTIPLIED * rate))
        moved = sum(layer.read_bytes + layer.write_bytes for layer in statistics.layers if layer.runs)
        return started + moved / (device.memory.bandwidth_gb_s * 1e6 * BANDWIDTH_SHARE)


_FILE = TypeAdapter(list[Counted])


def write(path: Path, counts: Sequence[Counted]) -> None:
    """Write counts to a file, in place of what it held."""
    with replacing(path) as part:
        part.write_text(json.dumps([count.model_dump() for count in counts], indent=1), encoding="utf-8")


def read(path: Path) -> list[Counted]:
    """The counts in a file; raises `InputError` where it is not one that `write` wrote."""
    try:
        return _FILE.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", ADVICE.format("CORE")) from error
    except ValidationError as error:
        raise InputError(f"{path} is no file of counts.", ADVICE.format("CORE")) from error


def found(counts: Sequence[Counted], statistics: Statistics, device: Device) -> Counted:
    """The count of a graph, at its sizes, for the cores of a device; raises `InputError` where none is."""
    name = core(device)
    own = digest(statistics)
    alike = [count for count in counts if count.graph == own]
    for count in alike:
        if count.cpu == name:
            return count
    if alike:
        raise InputError(
            f"The model was counted on {alike[0].cpu}; the cores of {device.name} are like {name}.",
            ADVICE.format(name),
        )
    held = ", ".join(
        f"{count.model} ({', '.join(f'{key}={size}' for key, size in count.shape.items()) or 'fixed shapes'})"
        for count in counts
    )
    raise InputError(
        "The file of counts has none of this model at these sizes.",
        f"It holds {held or 'nothing'}; give --shape as it was counted, or count again.",
    )


def core(device: Device) -> Core:
    """The emulated core whose instructions a device's cores have; raises `InputError` for those of a desktop.

    Told by how many int8 operations they do for one in fp32.
    """
    if device.tier in ("desktop", "host"):
        raise InputError(f"Nothing says that {device.name} has ARM cores.", "Leave out --counts.")
    ratio = device.cpu.peak("int8") / device.cpu.peak("fp32")
    if ratio < WITHOUT_DOT:
        return "cortex-a53"
    return "cortex-a76" if ratio < WITH_MATRICES else "armv8.6-i8mm"


def digest(statistics: Statistics) -> str:
    """What a graph at given sizes is known by: its operators and what each costs, whatever its weights."""
    costs = hashlib.sha256()
    for layer in statistics.layers:
        cost = (layer.macs, layer.other_ops, layer.weight_bytes, layer.read_bytes, layer.write_bytes)
        costs.update(f"{layer.op_type} {layer.precision} {layer.shape} {cost}\n".encode())
    return costs.hexdigest()
