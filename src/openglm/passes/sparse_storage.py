"""Compressed storage of weights that are mostly zeros, as pruning leaves them.

A file of a pruned model is as large as before: zeros take their bytes. Here a weight is kept as its
other values and where they are, in plain operators that build the dense weight from constants. An
engine computes these once, when it loads the model (ONNX Runtime's constant folding), and then has
the weight it had before, bit for bit: the file is small, speed and memory are those of the dense
model. It comes after all other passes, which would no longer find the weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.rewriting import clean, constant, constant_of, editable

SMALLEST = 4096
"""Elements of a weight below which nothing is saved."""
_GAIN = 0.1
"""Share of a weight's bytes that must be saved; the operators that build it take some too."""
_OPERATORS = 1500
"""Bytes that the operators and small constants of one weight take in the file."""
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))
_BYTES = (np.dtype(np.int8), np.dtype(np.uint8))


class SparseStorage(GraphPass):
    """Weights of one value for the most part, zero or an integer zero point, stored compressed."""

    scheme: ClassVar[str] = "sparse_storage"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        builder, dense, packed = _Builder(model), 0, 0
        for value in list(model.graph.initializers.values()):
            weight = constant_of(value)
            if weight is None or value.is_graph_output() or not value.uses() or not _takes(weight):
                continue
            parts = smallest(weight)
            size = sum(part.nbytes for part in parts.values()) + _OPERATORS
            if size > (1 - _GAIN) * weight.nbytes:
                continue
            builder.replace(value, weight, parts)
            dense, packed = dense + weight.nbytes, packed + size
        clean(model)
        if not dense:
            return Applied(model, False, ("No weight has zeros enough for compressed storage to pay.",))
        note = (
            f"Weights of {dense / 1e6:.3g} MB take {packed / 1e6:.3g} MB in the file, and as much memory as "
            "before once they are loaded."
        )
        return Applied(model, True, (note,))


def _takes(weight: np.ndarray) -> bool:
    return weight.size >= SMALLEST and (weight.dtype in _FLOATS or weight.dtype in _BYTES)


def smallest(weight: np.ndarray) -> dict[str, np.ndarray]:
    """The smaller of the two forms that `by_gaps` and `by_mask` give of a weight."""
    rest = _background(weight)
    # Bits are compared, not numbers: minus zero is not zero.
    bits = f"u{weight.itemsize}"
    flat = weight.reshape(-1)
    where = np.flatnonzero(flat.view(bits) != rest.view(bits))
    forms = by_gaps(flat, where, rest), by_mask(flat, where, rest)
    return min(forms, key=lambda parts: sum(part.nbytes for part in parts.values()))


def _background(weight: np.ndarray) -> np.ndarray:
    """What most elements are, of shape (1,): zero, or of bytes (quantized weights) the most frequent one."""
    if weight.dtype in _FLOATS:
        return np.zeros(1, weight.dtype)
    counts = np.bincount(weight.reshape(-1).view(np.uint8), minlength=256)
    return np.array([counts.argmax()], np.uint8).view(weight.dtype)


def by_gaps(flat: np.ndarray, where: np.ndarray, rest: np.ndarray) -> dict[str, np.ndarray]:
    """The elements at `where` and the steps from each to the next, uint8.

    A step above 255 is made of several, with elements that are `rest` between them.
    """
    steps = np.diff(where, prepend=0)
    extra = np.maximum(steps - 1, 0) // 255
    ends = np.cumsum(extra + 1) - 1
    gaps = np.full(len(where) + int(extra.sum()), 255, np.uint8)
    gaps[ends] = steps - 255 * extra
    values = np.full(len(gaps), rest, flat.dtype)
    values[ends] = flat[where]
    if not len(where):
        gaps, values = np.zeros(1, np.uint8), rest
    return {"gaps": gaps, "values": values}


def by_mask(flat: np.ndarray, where: np.ndarray, rest: np.ndarray) -> dict[str, np.ndarray]:
    """`rest`, then the elements at `where`; and a bit for each element, set at `where`, first bits high."""
    mask = np.zeros(len(flat), np.bool_)
    mask[where] = True
    return {"mask": np.packbits(mask), "values": np.concatenate([rest, flat[where]])}


class _Builder:
    """Puts operators that build weights from their parts into a graph; small constants are shared."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._shared: dict[str, ir.Value] = {}

    def replace(self, value: ir.Value, weight: np.ndarray, parts: dict[str, np.ndarray]) -> None:
        """Let what reads the weight read what is built of its parts."""
        name = str(value.name)
        own = {key: constant(self._model, f"{name}_{key}", part) for key, part in parts.items()}
        own["size"] = constant(self._model, f"{name}_size", np.array([weight.size], np.int64))
        shape = constant(self._model, f"{name}_shape", np.array(weight.shape, np.int64))
        build = self._from_gaps if "gaps" in parts else self._from_mask
        value.replace_all_uses_with(self._op("Reshape", build(weight, own), shape))
        del self._model.graph.initializers[name]

    def _from_gaps(self, weight: np.ndarray, parts: dict[str, ir.Value]) -> ir.Value:
        steps = self._op("Cast", parts["gaps"], to=int(ir.DataType.INT32))
        places = self._op("CumSum", steps, self._constant("axis", np.array(0, np.int64)))
        empty = self._op("ConstantOfShape", parts["size"], value=ir.tensor(_background(weight)))
        return self._op("ScatterElements", empty, places, parts["values"])

    def _from_mask(self, weight: np.ndarray, parts: dict[str, ir.Value]) -> ir.Value:
        column = self._op("Unsqueeze", parts["mask"], self._constant("last", np.array([1])))
        shifts = self._constant("shifts", np.arange(7, -1, -1, dtype=np.uint8))
        shifted = self._op("BitShift", column, shifts, direction="RIGHT")
        lowest = self._op("Mod", shifted, self._constant("two", np.array(2, np.uint8)))
        bits = self._op("Reshape", lowest, self._constant("flat", np.array([-1])))
        if weight.size % 8:
            bits = self._op("Slice", bits, self._constant("start", np.array([0])), parts["size"])
        # A set bit's element is the one of its rank among the set bits; the others take element 0. Not
        # NonZero and a scatter: ONNX Runtime does not fold NonZero.
        chosen = self._op("Cast", bits, to=int(ir.DataType.INT32))
        ranks = self._op("CumSum", chosen, self._constant("axis", np.array(0, np.int64)))
        return self._op("Gather", parts["values"], self._op("Mul", ranks, chosen))

    def _op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(kind, inputs, attributes)
        self._model.graph.insert_before(self._model.graph[0], node)
        return node.outputs[0]

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        if name not in self._shared:
            self._shared[name] = constant(self._model, f"sparse_{name}", array)
        return self._shared[name]
