"""Whether an engine's answers are those of the bundle's own engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Precision
from openglm.passes.rewriting import attribute

Outputs = Sequence[Mapping[str, np.ndarray]]


class Tolerance(NamedTuple):
    """What rounding explains."""

    difference: float
    """The largest of an output, as a share of the largest output."""
    cosine: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(5e-3, 0.9999),
    "fp16": Tolerance(2e-2, 0.999),
    "int8": Tolerance(0.5, 0.98),
    "int4": Tolerance(1.0, 0.95),
}
"""By the coarser of the two precisions, the engine's and the bundle's. Single outputs of rounded weights
may be far off where many are near; there the cosine decides."""


class Proof(NamedTuple):
    """How far an engine's answers are from the bundle's own engine's."""

    difference: float
    """The largest of any output, as a share of that output's largest value; infinite where shapes differ or
    numbers are missing."""
    mean_difference: float
    cosine: float
    """The lowest of all outputs, each taken over all samples."""

    def within(self, precision: Precision) -> bool:
        """Whether this precision explains it."""
        most = TOLERANCES[precision]
        return self.difference <= most.difference and self.cosine >= most.cosine


def prove(found: Outputs, reference: Outputs) -> Proof:
    """Compare two engines' outputs for the same inputs, given in the same order."""
    proofs = [
        _of_output([batch.get(name) for batch in found], [batch[name] for batch in reference])
        for name in reference[0]
    ]
    return Proof(
        max(proof.difference for proof in proofs),
        max(proof.mean_difference for proof in proofs),
        min(proof.cosine for proof in proofs),
    )


def _of_output(found: Sequence[np.ndarray | None], reference: Sequence[np.ndarray]) -> Proof:
    pairs = list(zip(found, reference, strict=True))
    if any(one is None or one.shape != other.shape for one, other in pairs):
        return Proof(np.inf, np.inf, 0.0)
    a, b = (
        np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in arrays])
        for arrays in ([one for one, _ in pairs if one is not None], [other for _, other in pairs])
    )
    known = np.isfinite(a) & np.isfinite(b)
    same = known | (a == b) | (np.isnan(a) & np.isnan(b))
    if not same.all():
        return Proof(np.inf, np.inf, 0.0)
    a, b = a[known], b[known]
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    gaps = np.abs(a - b)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(not gaps.any())
    return Proof(float(gaps.max(initial=0.0)) / scale, float(gaps.mean()) / scale if len(a) else 0.0, cosine)


def coarser(one: Precision, other: Precision) -> Precision:
    """The precision of the two that rounds more."""
    order = list(TOLERANCES)
    return max(one, other, key=order.index)


def precision_of(graph: ir.Model) -> Precision:
    """What the weights of a graph are held in: the coarsest of what any large constant is."""
    found: Precision = "fp32"
    for value in graph.graph.initializers.values():
        held = value.const_value
        if held is not None and held.size >= _LARGE:
            found = coarser(found, _HELD.get(held.dtype, "fp32"))
    products = (node for node in graph.graph.all_nodes() if node.op_type == "MatMulNBits")
    return "int4" if any(attribute(node, "bits", 4) == 4 for node in products) else found


_LARGE = 4096
"""Elements of a constant from which it tells the precision of a model."""
_HELD: dict[ir.DataType, Precision] = {
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
    ir.DataType.INT4: "int4",
    ir.DataType.UINT4: "int4",
}
