"""Memory and load time of a bundle's model in the engine that carries it, ONNX Runtime on the CPU.

Bundles keep weights in a file that the engine maps, and of which it reads what it needs. The constants of
memory were fitted to half of the networks of benchmarks/peak_memory.py, which compares what they predict
for the other half with what is measured: onnxruntime 1.30, Linux x86_64, one thread, the peak of resident
memory above what Python and numpy take.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from openglm.device.latency import BANDWIDTH_SHARE
from openglm.device.profile import Device
from openglm.memory.lifetime import constants
from openglm.model.analysis.statistics import Statistics
from openglm.model.analysis.weights import Weights

ENGINE_BYTES = 31.6e6
"""The engine's library and one session, with no weights."""

HELD_SHARE = 1.4
"""Bytes that the engine holds for each byte of a convolution's weights, which it brings into the order of
vector units; a matrix product's are held once, in such an order or as they are."""

LOADING_SHARE = 0.8
"""What is there besides while the former are made of the latter."""

ACTIVATION_SHARE = 1.45
"""Bytes of the engine's arena for each byte of tensors alive at the worst step: gaps between chunks, and the
buffers of kernels."""

INITIALISATION_TRAFFIC = 20
"""Bytes of memory traffic while a session is made, for each byte of weights (parse, copy, prepack):
2.2 ns a byte on a core that moves about 10 GB a second."""

NODE_TRAFFIC = 0.8e6
"""The same for each node (graph optimisation): 0.08 ms there."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process takes for a model, at the worst moment."""

    weights: float
    """As the engine holds them."""
    copies: float
    """Beside them while loading."""
    activations: float
    engine: float

    @property
    def peak(self) -> float:
        """Loading holds some weights twice; running holds the activations."""
        return self.engine + self.weights + max(self.copies, self.activations)


def footprint(statistics: Statistics, activation_bytes: int) -> Footprint:
    """The memory of a bundle's model whose tensors need `activation_bytes` at once.

    Of a table that rows are looked up in only these are read. What is computed from constants alone the
    engine computes once, and holds that instead.
    """
    shapes = statistics.shapes
    once = {node for node in constants(shapes.graph) if node.op_type != "Constant"}
    held = {
        value: size
        for value, size in Weights(shapes.graph).items()
        if any(
            use.node not in once and (use.idx > 0 or use.node.op_type not in _LOOKUPS) for use in value.uses()
        )
    }
    reordered = sum(size for value, size in held.items() if _reordered(value))
    made = sum(shapes.nbytes(value) for node in once for value in node.outputs)
    return Footprint(
        weights=sum(held.values()) + made + (HELD_SHARE - 1) * reordered,
        copies=LOADING_SHARE * reordered,
        activations=ACTIVATION_SHARE * activation_bytes,
        engine=ENGINE_BYTES,
    )


_LOOKUPS = ("Gather", "GatherBlockQuantized")
"""Their first input is the table."""


def _reordered(value: ir.Value) -> bool:
    """Whether a convolution uses it, behind the node that makes floats of it, if there is one."""
    users = [use.node for use in value.uses()]
    users += [
        use.node for node in users if node.op_type == "DequantizeLinear" for use in node.outputs[0].uses()
    ]
    return any("Conv" in node.op_type for node in users)


def read_ms(statistics: Statistics, device: Device) -> float:
    """Milliseconds to read the model's file from storage, not cached."""
    return statistics.file_bytes / (device.storage_read_mb_s * 1e6) * 1000


def initialisation_ms(statistics: Statistics, device: Device) -> float:
    """Milliseconds the engine takes to make a session of what was read."""
    traffic = INITIALISATION_TRAFFIC * statistics.weight_bytes + NODE_TRAFFIC * len(statistics.layers)
    return traffic / (device.memory.bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE) * 1000
