"""Memory and load time of a model in the engine that carries it, ONNX Runtime on the CPU.

The constants were measured with onnxruntime 1.30 on Linux x86_64, one thread: the peak of resident
memory above what Python and numpy take. A session with one Relu took 28 MB. all-MiniLM-L6-v2 at 1 x 128
tokens took 163, 71 and 69 MB as float, with int8 and with 8-bit weights alone, where the formulas give
161, 71 and 73; convolutional nets shaped as MobileNet v1 and ResNet-18 took 81 and 184, for 75 and 164.
"""

from __future__ import annotations

from dataclasses import dataclass

from openglm.device.latency import BANDWIDTH_SHARE
from openglm.device.profile import Device
from openglm.model.analysis.statistics import Layer, Statistics

ENGINE_BYTES = 28e6
"""The engine's library and one session, with no weights."""

WORKING_BYTES = 18e6
"""What running adds besides the activations: code pages, kernels' buffers, the arena's slack."""

CONVOLUTION_COPIES = 2
"""Copies of a float convolution's weights beside the original: they are reordered for vector units, and
the reordered ones are copied once more when the session takes them over."""

INITIALISATION_TRAFFIC = 20
"""Bytes of memory traffic while a session is made, for each byte of weights (parse, copy, prepack):
2.2 ns a byte on a core that moves about 10 GB a second."""

NODE_TRAFFIC = 0.8e6
"""The same for each node (graph optimisation): 0.08 ms there."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process takes for a model, at the worst moment."""

    weights: float
    prepacked: float
    """Copies of the weights of products in the kernels' layout, beside the originals while loading."""
    activations: float
    engine: float

    @property
    def peak(self) -> float:
        """Loading holds the weights twice where they are prepacked; running holds the activations."""
        return self.engine + self.weights + max(self.prepacked, self.activations + WORKING_BYTES)


def footprint(statistics: Statistics, activation_bytes: int) -> Footprint:
    """The memory of a model whose tensors need `activation_bytes` at once."""
    return Footprint(
        weights=statistics.weight_bytes,
        prepacked=sum(layer.weight_bytes * _copies(layer) for layer in statistics.layers),
        activations=activation_bytes,
        engine=ENGINE_BYTES,
    )


def _copies(layer: Layer) -> int:
    """How many copies of a layer's weights the kernels keep."""
    if not layer.macs:
        return 0
    return CONVOLUTION_COPIES if "Conv" in layer.op_type and layer.precision == "fp32" else 1


def read_ms(statistics: Statistics, device: Device) -> float:
    """Milliseconds to read the model's file from storage, not cached."""
    return statistics.file_bytes / (device.storage_read_mb_s * 1e6) * 1000


def initialisation_ms(statistics: Statistics, device: Device) -> float:
    """Milliseconds the engine takes to make a session of what was read."""
    traffic = INITIALISATION_TRAFFIC * statistics.weight_bytes + NODE_TRAFFIC * len(statistics.layers)
    return traffic / (device.memory.bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE) * 1000
