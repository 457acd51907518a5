"""Nominal time of a graph's kernels on a flagship's NPU, summed by what binds them.

Each term is a time in milliseconds from round figures (10 TMAC/s in fp16, 50 GB/s, a microsecond or less
to start a kernel). What is learnt is one factor for each term, precision, device and runtime
(`coefficients.py`), so the terms are kept physical and few.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from openglm.device.phone.fallback import fallback_ms, falls_back
from openglm.device.phone.workload import Kernel

Scheme = Literal["float", "w8a8", "w8a16"]
"""What a model computes in: fp16 on an NPU, or 8-bit weights with 8- or 16-bit activations."""

SCHEMES: tuple[Scheme, ...] = ("float", "w8a8", "w8a16")

PRODUCT_MS = {"float": 1e-10, "w8a8": 0.25e-10, "w8a16": 0.5e-10}
"""A multiply-accumulate on the matrix unit."""

VECTOR_PRODUCT_MS = 2e-9
"""A multiply-accumulate of a depthwise convolution, on the vector unit in fp16; in int8 half of it."""

ELEMENT_BYTE_MS = 4e-9
"""A byte that the vector unit handles in local memory."""

MEMORY_BYTE_MS = 2e-8
"""A byte from or to main memory: 50 GB/s."""

START_MS = 4e-4
"""A kernel's start."""

RECURRENT_MS = 1e-7
"""A multiply-accumulate of an LSTM, whose steps wait for each other."""

SPILL_BYTES = 6e6
"""A kernel whose activations are larger goes through main memory for the rest."""

ACTIVATION_BYTES = {"float": 2, "w8a8": 1, "w8a16": 2}
WEIGHT_BYTES = {"float": 2, "w8a8": 1, "w8a16": 1}

PRODUCTS = {
    "conv": "conv",
    "conv_dilated": "conv_dilated",
    "conv_transpose": "conv_transpose",
    "conv_1x1": "conv_1x1",
    "conv_first": "conv_first",
    "conv_3d": "conv_3d",
    "grouped": "grouped",
    "linear": "linear",
    "attention": "attention",
}
PASSES = {
    "residual": 1.5,
    "broadcast": 1.5,
    "bias": 1.0,
    "scalar": 0.5,
    "clip": 0.5,
    "curve": 2.0,
    "gelu": 3.0,
    "layer_norm": 3.0,
    "instance_norm": 6.0,
    "softmax": 8.0,
    "transpose": 2.0,
    "reshape": 1.0,
    "concat": 1.0,
    "slice": 1.0,
    "gather": 2.0,
    "pad": 1.0,
    "shuffle": 2.0,
    "reduce": 2.0,
    "pool": 2.0,
    "pool_large": 1.0,
    "resize": 3.0,
    "resize_linear": 3.0,
    "other": 1.0,
}
"""How often the vector unit passes over what such a kernel reads and writes, roughly."""

MOVES = frozenset(("transpose", "reshape", "concat", "slice", "gather", "pad", "shuffle"))


def terms(kernels: Sequence[Kernel], boundary: int, scheme: Scheme, runtime: str) -> dict[str, float]:
    """Nominal milliseconds by term; `boundary` is how many elements go in and out of the graph."""
    activation, weight = ACTIVATION_BYTES[scheme], WEIGHT_BYTES[scheme]
    sums: dict[str, float] = defaultdict(float)
    sums["call"] = 0.05
    sums["memory:boundary"] = MEMORY_BYTE_MS * activation * boundary
    for kernel in kernels:
        if falls_back(kernel, runtime, scheme):
            sums["fallback"] += fallback_ms(kernel)
            continue
        touched = activation * (kernel.read + kernel.written)
        loading = 0.9 * MEMORY_BYTE_MS * weight * kernel.weights
        spilled = MEMORY_BYTE_MS * max(0.0, touched - SPILL_BYTES)
        if kernel.kind in PRODUCTS:
            # The first convolution has 3 channels, which compilers pack rather than pad.
            count = kernel.macs if kernel.kind == "conv_first" else kernel.padded
            product = PRODUCT_MS[scheme] * count
            sums[f"product:{kernel.kind}"] += product
            # Weights are read while the products before them run; only what takes longer is waited for.
            sums["memory:behind"] += min(loading, product)
            sums["memory:weights"] += max(0.0, loading - product)
            sums["pass:product"] += ELEMENT_BYTE_MS * touched
            sums["spill:product"] += spilled
            sums["start:product"] += START_MS
            if kernel.groups > 1:
                sums["start:groups"] += START_MS * kernel.groups
            continue
        sums["memory:weights"] += loading
        if kernel.kind == "depthwise":
            sums["product:depthwise"] += VECTOR_PRODUCT_MS * kernel.padded * (0.5 if activation == 1 else 1)
            sums["pass:depthwise"] += ELEMENT_BYTE_MS * touched
            sums["start:product"] += START_MS
        elif kernel.kind == "vector_product":
            sums["start:product"] += START_MS
        elif kernel.kind == "recurrent":
            sums["pass:recurrent"] += RECURRENT_MS * kernel.macs
            sums["start:vector"] += START_MS
        else:
            # A large window is read anew for every element that it makes.
            passed = activation * kernel.padded if kernel.kind == "pool_large" else touched
            sums[f"pass:{kernel.kind}"] += ELEMENT_BYTE_MS * PASSES[kernel.kind] * passed
            sums["start:move" if kernel.kind in MOVES else "start:vector"] += START_MS
        if kernel.kind == "softmax":
            sums["spill:softmax"] += spilled
        elif kernel.kind != "concat":  # what makes the parts writes them into place
            sums["spill:vector"] += spilled
    return dict(sums)


NAMES: tuple[str, ...] = (
    "call",
    "fallback",
    "memory:boundary",
    "memory:behind",
    "memory:weights",
    *(f"product:{kind}" for kind in (*PRODUCTS, "depthwise")),
    *(f"pass:{kind}" for kind in ("product", "depthwise", "recurrent", *PASSES)),
    *(f"spill:{kind}" for kind in ("product", "softmax", "vector")),
    *(f"start:{kind}" for kind in ("product", "groups", "vector", "move")),
)
"""Every term, in the order of the coefficients."""

GROUPS: tuple[str, ...] = ("call", "fallback", "memory", "product", "pass", "spill", "start")


def group(name: str) -> str:
    """The resource that a term is bound by: "product", "memory", "pass" ..."""
    return name.partition(":")[0]
