"""Finding layers in a graph, and putting nodes in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from openglm.errors import InputError
from openglm.model.analysis.naming import module_of

MICROSOFT = "com.microsoft"
"""Domain of the operators that ONNX Runtime adds to the standard."""
_OPSET = 13
"""The first in which DequantizeLinear knows an axis and Split takes its sizes as an input."""


def editable(graph: ir.Model) -> ir.Model:
    """A copy to rewrite in which layers are easy to find: no functions, constants as initializers.

    Raises `InputError` for an opset before 13, or functions that cannot be inlined.
    """
    opset = graph.opset_imports.get("", graph.opset_imports.get("ai.onnx"))
    if opset is not None and opset < _OPSET:
        raise InputError(
            f"The model is of ONNX opset {opset}, and passes need {_OPSET} or newer.",
            "Export it at a newer opset.",
        )
    model = graph.clone()
    try:
        common.InlinePass()(model)
    except (ir.passes.PassError, ValueError) as error:
        raise InputError(
            f"The functions of the model cannot be inlined: {error}.", "Export it without functions."
        ) from error
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for scope in model.graphs():
        for value in scope.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING:
                value.const_value = _view(value.const_value)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.NameFixPass()(model)
    return model


def _view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data under a name of its own: a clone shares tensors, names included, with the original."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, dtype=tensor.dtype, shape=shape, name=tensor.name)


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
        """Let every user of `old` take `new`, under its name where it is a graph's output; its node goes."""
        new.shape, new.type = old.shape, old.type
        name, is_output, node = old.name, old.is_graph_output(), old.producer()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if is_output:
            old.name, new.name = None, name
        assert node is not None
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def constant(model: ir.Model, name: str, array: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """Add an initializer to the main graph, under `name` made unique."""
    unique, count = name, 0
    while unique in model.graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = ir.tensor(array, name=unique) if isinstance(array, np.ndarray) else array
    tensor.name = unique
    value = ir.Value(
        name=unique,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    model.graph.register_initializer(value)
    return value


_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}


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
        return str(self.key[0].name)

    @property
    def key(self) -> tuple[ir.Value, bool]:
        """Equal for layers that have the same weight the same way round."""
        value = self.node.inputs[1]
        assert value is not None
        return value, bool(attribute(self.node, "transB", 0))


def linears(model: ir.Model) -> Iterator[Linear]:
    """Every linear layer of the graph and its subgraphs, in order."""
    for node in list(model.graph.all_nodes()):
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weight = weight_of(node)
        if weight is None or weight.ndim != 2 or weight.dtype != np.float32:
            continue
        if constant_of(node.inputs[0]) is not None:
            continue
        if node.op_type == "MatMul":
            yield Linear(node, weight, None)
        elif is_plain(node):
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            yield Linear(node, weight.T if attribute(node, "transB", 0) else weight, bias)


def is_plain(node: ir.Node) -> bool:
    """Whether a Gemm, or another product, is without scaling and reads its activations as they are."""
    return all(attribute(node, name, default) == default for name, default in _PLAIN.items())


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; none for anything computed or fed."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def weight_of(node: ir.Node) -> np.ndarray | None:
    """The constant that a product has as input 1, also where the graph transposes it, as a tied table."""
    value = node.inputs[1]
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Transpose" or producer.domain:
        return constant_of(value)
    source = constant_of(producer.inputs[0])
    return None if source is None else source.transpose(attribute(producer, "perm", None))


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or `default` where it is not set."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_of(node: ir.Node, modules: Collection[str]) -> bool:
    """Whether a node came from one of the modules, given by dotted paths, or from inside of one."""
    if not modules:
        return False
    path = module_of(node)
    return any(path == name or path.startswith(f"{name}.") for name in modules)


# What may stand between the last layer with weights and an output without making it another layer's.
_AFTER_HEAD = {
    "Add", "Sub", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid", "Tanh", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Transpose", "Cast", "Identity", "Split", "Slice", "Concat",
    "Resize", "DepthToSpace",
}  # fmt: skip
_SMALL_HEAD = 0.02
_BINARY = {"Add", "Sub", "Mul", "Div"}


def heads(model: ir.Model) -> set[ir.Node]:
    """The last layers with weights before each output: their results are the logits.

    A graph that ends in pooling or normalising, as an encoder does, has none.
    """
    found: set[ir.Node] = set()
    waiting = [maker for value in model.graph.outputs if (maker := value.producer())]
    seen: set[ir.Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if _has_weights(node):
            found.add(node)
        elif node.op_type in _AFTER_HEAD:
            data = [value for value in node.inputs if value is not None and not value.is_initializer()]
            # Two computed operands are a residual or a normalisation, spelt out: only a layer right
            # before it makes the output, not those that its other operand comes from.
            every = len(data) == 1 or node.op_type not in _BINARY
            makers = (value.producer() for value in data)
            waiting.extend(maker for maker in makers if maker and (every or _has_weights(maker)))
    return found


def small_heads(model: ir.Model) -> set[ir.Node]:
    """The heads that stay float: with so small a share of all weights nothing is gained by rounding logits.

    The output layer of a language model, a tenth of it or more, is not among them.
    """
    layers = list(linears(model))
    limit = _SMALL_HEAD * sum(layer.weight.size for layer in layers)
    logits = heads(model)
    return {layer.node for layer in layers if layer.node in logits and layer.weight.size < limit}


def _has_weights(node: ir.Node) -> bool:
    return node.op_type in ("MatMul", "Gemm", "Conv") and weight_of(node) is not None


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
