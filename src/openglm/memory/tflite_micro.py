"""A plan for TensorFlow Lite Micro, carried in the .tflite file itself.

TFLite Micro takes offsets from the metadata "OfflineMemoryAllocation" instead of planning on the device: a
buffer of int32 with the format's version (0), the subgraph, the number of tensors, and for each the offset
in bytes or -1 where the runtime is to place it (tensorflow/lite/micro/docs/memory_management.md, "Offline
planned tensor allocations"). Any other runtime passes over the metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from openglm.errors import InputError
from openglm.memory.lifetime import Lifetime
from openglm.memory.plan import Plan, place
from openglm.model.tflite.reading import MAGIC, Subgraph, Tensor, read
from openglm.writing import replacing

NAME = b"OfflineMemoryAllocation"
ALIGN = 16
"""TFLite Micro's own alignment of buffers, in bytes."""
ELSEWHERE = -1


def tensor_lifetimes(graph: Subgraph) -> list[Lifetime]:
    """The tensors that the arena holds: those that are computed or handed in. Steps are the operators.

    Nothing is shared, neither views nor in place: TFLite Micro's kernels copy. Raises `InputError` where a
    tensor's size is open.
    """
    end = max(len(graph.operations) - 1, 0)
    first, last = dict.fromkeys(graph.inputs, 0), dict.fromkeys(graph.inputs, 0)
    for step, operation in enumerate(graph.operations):
        for index in (*operation.inputs, *operation.outputs):
            if index >= 0 and _planned(graph.tensors[index]):
                first.setdefault(index, step)
                last[index] = step
    last |= {index: end for index in graph.outputs if index in first}
    found = []
    for index, start in sorted(first.items(), key=lambda pair: (pair[1], pair[0])):
        tensor = graph.tensors[index]
        if any(tensor.open[1:]) or tensor.nbytes is None:
            raise InputError(
                f"The tensor '{tensor.name}' has no size that is known beforehand.",
                "Convert the model with fixed shapes.",
            )
        name = tensor.name or f"tensor {index}"
        found.append(Lifetime(name, start, last[index], tensor.nbytes, (str(index),)))
    return found


def plan(path: Path, *, align: int = ALIGN, arena_bytes: int | None = None, seconds: float = 10.0) -> Plan:
    """Plan the tensors of a .tflite file's main graph in the order of its operators.

    Raises as `reading.read` and `plan.place` do.
    """
    graph = read(path).subgraphs[0]
    steps = [operation.name for operation in graph.operations]
    tensors = tensor_lifetimes(graph)
    return place(path.stem, tensors, steps, align=align, arena_bytes=arena_bytes, seconds=seconds)


def write(source: Path, planned: Plan, target: Path) -> None:
    """Copy a .tflite file with `planned`, which `plan` made of it, as its offline plan.

    An earlier plan in the file is replaced. Raises `InputError` for a file that TFLite Micro could not take:
    one whose constants lie behind its flatbuffer, and a plan of another alignment than its own.
    """
    from ai_edge_litert import schema_py_generated as schema

    if planned.alignment % ALIGN:
        raise InputError(
            f"TFLite Micro aligns tensors to {ALIGN} bytes, and the plan to {planned.alignment}.",
            f"Plan with --align {ALIGN}.",
        )
    content = source.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise InputError(f"{source} is too large for TFLite Micro.", "Give a file of less than 2 GB.")
    offsets = np.full(len(model.subgraphs[0].tensors), ELSEWHERE, np.int32)
    for placement in planned.placements:
        offsets[int(placement.values[0])] = placement.offset
    buffer = schema.BufferT()
    buffer.data = np.concatenate([np.array([0, 0, len(offsets)], np.int32), offsets]).view(np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = NAME, len(model.buffers) - 1
    model.metadata = [kept for kept in model.metadata or () if _name(kept) != NAME] + [entry]
    with replacing(target) as part:
        part.write_bytes(_packed(model))


def offsets_in(path: Path) -> list[int] | None:
    """The offsets that a .tflite file carries for its tensors; none where it carries no plan."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    entry = next((kept for kept in model.metadata or () if _name(kept) == NAME), None)
    if entry is None:
        return None
    numbers = np.asarray(model.buffers[entry.buffer].data, np.uint8).view(np.int32)
    return [int(number) for number in numbers[3:]]


def _name(entry: Any) -> bytes:
    return entry.name if isinstance(entry.name, bytes) else str(entry.name).encode()


def _packed(model: Any) -> bytes:
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=MAGIC)
    return bytes(builder.Output())


def _planned(tensor: Tensor) -> bool:
    return tensor.data is None and not tensor.variable
