"""Which operators a phone's runtime does not run on the NPU.

Read off the public measurements, which count the layers on each processor: ONNX Runtime's QNN provider takes
no Gelu in a quantized graph, and LiteRT's delegate no three-dimensional convolution as such.
"""

from __future__ import annotations

from openglm.device.phone.workload import Kernel

WHOLE_ON_CPU = frozenset((("snapdragon-7-gen-4", "onnx"),))
"""Profiles and runtimes of which every measured model ran on the CPU, though there is an NPU."""

CPU_ELEMENT_MS = 2e-5
"""An element of a Gelu on the CPU: several passes, and the conversions to float and back."""

CPU_PRODUCT_MS = 5e-9
"""A multiply-accumulate of a three-dimensional convolution taken apart."""

CPU_CALL_MS = 0.3
"""Handing tensors over and back."""


def falls_back(kernel: Kernel, runtime: str, scheme: str) -> bool:
    """Whether `runtime` runs the kernel outside the NPU's fast path."""
    if runtime == "onnx":
        return scheme != "float" and kernel.kind == "gelu"
    return runtime == "tflite" and kernel.kind == "conv_3d"


def fallback_ms(kernel: Kernel) -> float:
    """Nominal milliseconds of such a kernel."""
    if kernel.macs:
        return CPU_CALL_MS + CPU_PRODUCT_MS * kernel.macs
    return CPU_CALL_MS + CPU_ELEMENT_MS * kernel.written
