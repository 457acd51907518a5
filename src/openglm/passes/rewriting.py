"""Finding layers in a graph, and putting nodes in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to the standard."""


class Rewriter:
    """Adds nodes before one anchor node, and constants to its model."""

    def __init__(self, model: ir.Model, anchor: ir.Node) -> None:
        self._model = model
        self._anchor = anchor

    def op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        """Insert a node; its output, or a tuple where it has several."""
        node = ir.node(kind, inputs, attributes or {}, domain=domain, num_outputs=outputs)
        node.metadata_props.update(self._anchor.metadata_props)
        graph = self._anchor.graph
        assert graph is not None
        graph.insert_before(self._anchor, node)
        if domain:
            self._model.opset_imports.setdefault(domain, 1)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def constant(self, name: str, array: np.ndarray | ir.TensorProtocol) -> ir.Value:
        """An initializer under `name`, made unique."""
        return constant(self._model, name, array)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every user of `old` take `new`; the anchor goes once nothing uses it."""
        new.shape, new.dtype = old.shape, old.dtype
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def constant(model: ir.Model, name: str, array: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """Add an initializer to the main graph, under `name` made unique."""
    unique, count = name, 0
    while unique in model.graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique) if isinstance(array, np.ndarray) else array
    tensor.name = unique
    value = ir.Value(
        name=unique, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


@dataclass(frozen=True)
class Linear:
    """A product with a constant matrix: a MatMul, or a Gemm without scaling."""

    node: ir.Node
    weight: np.ndarray
    """(in features, out features), float32"""
    bias: ir.Value | None

    @property
    def input(self) -> ir.Value:
        """The activations, (..., in features)."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def name(self) -> str:
        """The name of the weight it replaces, kept in its successors."""
        return str(self.node.inputs[1].name)  # type: ignore[union-attr]


def linears(model: ir.Model) -> Iterator[Linear]:
    """Every linear layer of the graph and its subgraphs, in order."""
    for node in list(model.graph.all_nodes()):
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weight = constant_of(node.inputs[1])
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32 or constant_of(node.inputs[0]) is not None:
            continue
        if node.op_type == "MatMul":
            yield Linear(node, weight, None)
        elif attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0):
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            yield Linear(node, weight.T if attribute(node, "transB", 0) else weight, bias)


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; none for anything computed or fed."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or `default` where it is not set."""
    found = node.attributes.get(name)
    return default if found is None else found.value


# What may stand between the last layer with weights and an output without making it another layer's.
_AFTER_HEAD = {
    "Add", "Sub", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Transpose", "Cast", "Identity",
}  # fmt: skip


def heads(model: ir.Model) -> set[ir.Node]:
    """The last layers with weights before each output: their results are the logits.

    A graph that ends in pooling or normalising, as an encoder does, has none.
    """
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs]
    seen: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in ("MatMul", "Gemm", "Conv") and constant_of(node.inputs[1]) is not None:
            found.add(node)
        elif node.op_type in _AFTER_HEAD:
            waiting.extend(value.producer() for value in node.inputs if value is not None)
    return found


def clean(model: ir.Model) -> None:
    """Drop what nothing uses, and order and name what is left."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    model.graph.sort()
    common.NameFixPass()(model)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            # What exporters recorded may no longer hold in a rewritten graph; engines infer it anew.
            if not value.is_graph_output():
                value.shape = value.type = None
