"""An ONNX graph as a PyTorch module: what came as a file is pruned and trained as any other.

Nodes with weights become PyTorch's own layers, under the names that the file gives them; the others are
computed by `operators`. The module's code reads as a `forward` written by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from openglm.errors import InputError
from openglm.model.analysis.naming import module_of
from openglm.model.modules import operators, shapes
from openglm.model.modules.opset import modern
from openglm.model.tensor import identifier

SIZES = 16
"""So many whole numbers in a row, at most, are taken as sizes, axes and the like: Python's own, as
`shapes` wants them."""


def of_graph(
    model: ir.Model, *, named: bool = False, functions: Mapping[str, Callable[..., Any]] | None = None
) -> fx.GraphModule:
    """The graph as a module in evaluation mode; `forward` takes the graph's inputs under `identifier` of
    their names and gives its outputs, a tensor or a tuple of them, or `named`, a dict, also by `identifier`.
    `functions` compute operators that are not known otherwise, by their types.

    The weights of layers are parameters. Other constants are buffers, which no training changes. Raises
    `InputError` for an operator, or a form of one, that is not known.
    """
    return _Builder(model, functions or {}).built(named)


class _Builder:
    def __init__(self, model: ir.Model, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.functions = {**operators.OPERATORS, **functions}
        self.source = modern(model).graph
        self.graph = fx.Graph()
        self.held: dict[str, Any] = {}
        """Layers and buffers by the path they get."""
        self.constants: dict[str, Any] = {}
        """By the value's name: an array, or Python's numbers."""
        self.nodes: dict[str, fx.Node] = {}
        """By the value's name."""
        self.joined: dict[ir.Node, str] = {}
        """Nodes that a layer does too, with the name of what it gives."""

    def built(self, named: bool) -> fx.GraphModule:
        for value in self.source.initializers.values():
            if value.const_value is not None:
                self.constants[str(value.name)] = _constant(value.const_value.numpy())
        for value in self.source.inputs:
            name = str(value.name)
            if name in self.constants:
                continue
            self.nodes[name] = self.graph.placeholder(identifier(name))
        for node in self.source:
            if node.domain not in ("", "ai.onnx"):
                raise _unknown(f"{node.domain}.{node.op_type}")
            if node in self.joined:
                self.nodes[str(node.outputs[0].name)] = self.nodes[self.joined[node]]
            elif node.op_type == "Constant":
                self.constants[str(node.outputs[0].name)] = _attribute_of(node)
            elif node.op_type in LAYERS and (layer := LAYERS[node.op_type](self, node)) is not None:
                self._put(node, layer)
            else:
                self._call(node)
        outputs = [self.argument(value) for value in self.source.outputs]
        given: Any = outputs[0] if len(outputs) == 1 else tuple(outputs)
        if named:
            names = [identifier(str(value.name)) for value in self.source.outputs]
            given = dict(zip(names, outputs, strict=True))
        self.graph.output(given)
        return fx.GraphModule(self.held, self.graph).eval()

    def argument(self, value: ir.Value) -> Any:
        """What an fx node takes for a value: another node, or Python's numbers."""
        name = str(value.name)
        if name not in self.nodes:
            held = self.constants[name]
            if not isinstance(held, np.ndarray):
                return held
            self.nodes[name] = self._buffer(name, torch.from_numpy(held.copy()))
        return self.nodes[name]

    def _buffer(self, name: str, tensor: torch.Tensor) -> fx.Node:
        path = self._free(name if name.isidentifier() else "constant")
        self.held[path] = tensor
        return self.graph.get_attr(path)

    def weight(self, node: ir.Node, place: int) -> torch.Tensor | None:
        """A constant input of a node."""
        value = node.inputs[place] if place < len(node.inputs) else None
        held = None if value is None else self.constants.get(str(value.name))
        return torch.from_numpy(held.copy()) if isinstance(held, np.ndarray) else None

    def _put(self, node: ir.Node, layer: nn.Module) -> None:
        """Have a layer in place of a node."""
        path = self._free(_path(node))
        self.held[path] = layer
        read = node.inputs[1] if isinstance(layer, nn.Embedding) else node.inputs[0]
        assert read is not None
        self.nodes[str(node.outputs[0].name)] = self.graph.call_module(path, (self.argument(read),))

    def _call(self, node: ir.Node) -> None:
        """Have a function in place of a node."""
        function = self.functions.get(node.op_type)
        if function is None:
            raise _unknown(node.op_type)
        settings = _settings(node)
        for name, value in settings.items():
            if isinstance(value, torch.Tensor):
                settings[name] = self._buffer(name, value)
        if node.op_type == "Resize":  # sizes are made of its scales
            self._spell_out(node.inputs[1:])
        if node.op_type == "Split":
            settings["outputs"] = len(node.outputs)
        given = [None if value is None else self.argument(value) for value in node.inputs]
        try:
            inspect.signature(function).bind(*given, **settings)
        except TypeError as error:
            raise _unknown(f"{node.op_type} in this form") from error
        made = self.graph.call_function(function, tuple(given), settings)
        if len(node.outputs) == 1 or node.op_type in ("Dropout", "BatchNormalization", "LayerNormalization"):
            self.nodes[str(node.outputs[0].name)] = made
            return
        for place, value in enumerate(node.outputs):
            self.nodes[str(value.name)] = self.graph.call_function(shapes.item, (made, place))

    def _spell_out(self, values: Sequence[ir.Value | None]) -> None:
        """Have constants as Python's numbers."""
        for name in (str(value.name) for value in values if value is not None):
            if isinstance(held := self.constants.get(name), np.ndarray):
                self.constants[name] = held.tolist()

    def _free(self, path: str) -> str:
        """A path that nothing has yet."""
        tried, number = path, 1
        while tried in self.held:
            number += 1
            tried = f"{path}_{number}"
        return tried


def _unknown(what: str) -> InputError:
    return InputError(f"PyTorch has no counterpart here of {what}.", "Give the model as a PyTorch module.")


def _constant(array: np.ndarray) -> Any:
    """An array, or Python's numbers where it has no axes or is a short list of whole numbers."""
    whole = array.dtype in (np.int64, np.int32)
    if array.ndim == 0 or (array.ndim == 1 and whole and array.size <= SIZES):
        return array.tolist()
    return array


def _attribute_of(node: ir.Node) -> Any:
    (attribute,) = node.attributes.values()
    held = _plain(attribute)
    return _constant(held.numpy()) if isinstance(held, torch.Tensor) else held


def _plain(attribute: ir.Attr) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return torch.from_numpy(np.array(attribute.as_tensor().numpy()))
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        raise _unknown("an operator that holds graphs")
    value = attribute.value
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, tuple) else value


def _settings(node: ir.Node) -> dict[str, Any]:
    """A node's attributes."""
    return {name: _plain(attribute) for name, attribute in node.attributes.items()}


def _path(node: ir.Node) -> str:
    """What a layer is called: as its weight is, as its module was, or as its operator."""
    place = 0 if node.op_type == "Gather" else 1
    weight = node.inputs[place]
    assert weight is not None
    path, _, last = str(weight.name).rpartition(".")
    if last != "weight" or not path:
        path = module_of(node) or node.op_type.lower()
    return (
        path
        if all(part.isidentifier() or part.isdigit() for part in path.split("."))
        else node.op_type.lower()
    )


def _conv(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight, bias = builder.weight(node, 1), builder.weight(node, 2)
    settings = _settings(node)
    dims = 0 if weight is None else weight.dim() - 2
    pads = settings.get("pads") or [0] * 2 * dims
    uneven = pads[:dims] != pads[dims:] or settings.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if weight is None or (bias is None) != (len(node.inputs) < 3) or uneven:
        return None
    groups = settings.get("group", 1)
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer: nn.Module = kind(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]),
        tuple(settings.get("strides") or [1] * dims), tuple(pads[:dims]),
        tuple(settings.get("dilations") or [1] * dims), groups, bias is not None,
    )  # fmt: skip
    return _filled(layer, weight=weight, bias=bias)


def _transposed(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight, bias = builder.weight(node, 1), builder.weight(node, 2)
    settings = _settings(node)
    dims = 0 if weight is None else weight.dim() - 2
    pads = settings.get("pads") or [0] * 2 * dims
    odd = settings.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in settings
    if weight is None or pads[:dims] != pads[dims:] or odd:
        raise _unknown("ConvTranspose in this form")
    groups = settings.get("group", 1)
    kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    layer: nn.Module = kind(
        weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]),
        tuple(settings.get("strides") or [1] * dims), tuple(pads[:dims]),
        tuple(settings.get("output_padding") or [0] * dims), groups, bias is not None,
        tuple(settings.get("dilations") or [1] * dims),
    )  # fmt: skip
    return _filled(layer, weight=weight, bias=bias)


def _gemm(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight, bias = builder.weight(node, 1), builder.weight(node, 2)
    settings = _settings(node)
    plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
    if (
        weight is None
        or not plain
        or (bias is None) != (len(node.inputs) < 3)
        or (bias is not None and bias.dim() != 1)
    ):
        return None
    return _linear(weight if settings.get("transB", 0) else weight.T, bias)


def _matmul(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight = builder.weight(node, 1)
    if weight is None or weight.dim() != 2:
        return None
    return _linear(weight.T, _bias_after(builder, node, weight.shape[1:]))


def _bias_after(builder: _Builder, node: ir.Node, shape: torch.Size) -> torch.Tensor | None:
    """What an Add of a constant vector adds, which alone reads what a MatMul gives; it is joined to that."""
    given = node.outputs[0]
    uses = list(given.uses())
    if given.is_graph_output() or len(uses) != 1 or uses[0].node.op_type != "Add":
        return None
    bias = builder.weight(uses[0].node, 1 - uses[0].idx)
    if bias is None or bias.shape != shape:
        return None
    builder.joined[uses[0].node] = str(given.name)
    return bias


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return _filled(layer, weight=weight, bias=bias)


def _batch_norm(builder: _Builder, node: ir.Node) -> nn.Module | None:
    parts = [builder.weight(node, place) for place in range(1, 5)]
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if any(part is None for part in parts) or shape is None:
        return None
    weight, bias, mean, variance = parts
    assert weight is not None
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(len(shape))
    if kind is None:
        return None
    settings = _settings(node)
    layer = kind(len(weight), settings.get("epsilon", 1e-5), 1 - settings.get("momentum", 0.9))
    return _filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _layer_norm(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight, bias = builder.weight(node, 1), builder.weight(node, 2)
    settings = _settings(node)
    if weight is None or settings.get("axis", -1) != -weight.dim() or len(node.outputs) > 1:
        return None
    layer = nn.LayerNorm(tuple(weight.shape), settings.get("epsilon", 1e-5), bias=bias is not None)
    return _filled(layer, weight=weight, bias=bias)


def _embedding(builder: _Builder, node: ir.Node) -> nn.Module | None:
    weight, indices = builder.weight(node, 0), node.inputs[1]
    axis = _settings(node).get("axis", 0)
    known = indices is not None and str(indices.name) in builder.constants
    if weight is None or weight.dim() != 2 or not weight.is_floating_point() or axis or known:
        return None
    layer = nn.Embedding(*weight.shape)
    return _filled(layer, weight=weight)


def _filled(layer: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(layer, name).copy_(tensor)
    return layer


LAYERS: dict[str, Callable[[_Builder, ir.Node], nn.Module | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Gather": _embedding,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
}
"""What makes a layer of a node with constant weights; none for a form that is left to `operators`."""
