"""A statically quantized graph as a PyTorch module with the same integers, for engines that convert modules.

Activations pass through `quantize_per_tensor` and `dequantize_per_tensor` of torch.ops.quantized_decomposed,
weights of layers through the same by channel: the form in which PyTorch's own quantization (PT2E) leaves a
module, and which engines turn into integer operators. Ranges are the graph's own, so that an engine rounds
as the bundle does; nothing is calibrated again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn.utils import parametrize

from openglm.model.modules.graph_module import of_graph

if TYPE_CHECKING:
    from torch import fx

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_SATURATING = ("Clip", "Relu")
_INT8 = (-128, 127, torch.int8)


def of_static(model: ir.Model, *, named: bool = False, folded: bool = False) -> fx.GraphModule:
    """The module of a graph with QuantizeLinear and DequantizeLinear, called as that of `of_graph`.

    Layers whose results are quantized have rounded weights; where a result stays float the weights do too,
    and are what the graph's integers mean. Parameters are floats that are rounded as they are read; or,
    `folded`, integers. Raises `InputError` for what `of_graph` does not know.
    """
    model = model.clone()
    scales = _widened(model)
    for node in model.graph:
        if node.op_type in _FUNCTIONS:
            _signed(model, node)
    module = of_graph(model, named=named, functions=_FUNCTIONS)
    for path, layer in list(module.named_modules()):
        if path in scales and isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            _round(layer, scales[path], folded)
    for call in list(module.graph.nodes):
        if call.target is _dequantize:
            # Each user has its own: engines look for the integers before one operator at a time.
            for user in list(call.users)[1:]:
                with module.graph.inserting_after(call):
                    user.replace_input_with(call, module.graph.node_copy(call))
    module.recompile()
    return module


def _widened(model: ir.Model) -> dict[str, torch.Tensor]:
    """Have floats in place of constant integers; the scales of layers that are to be rounded, (channels,),
    by the paths that `of_graph` gives them."""
    scales: dict[str, torch.Tensor] = {}
    for node in list(model.graph):
        integers, scale = _held(node.inputs[0]), _held(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op_type != "DequantizeLinear" or integers is None or scale is None:
            continue
        zero = _held(node.inputs[2]) if len(node.inputs) > 2 else None
        given = node.attributes.get("axis")
        along = [1] * integers.ndim
        if scale.size > 1:
            along[1 if given is None else given.as_int()] = -1
        shift = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
        real = (integers.astype(np.float32) - shift.reshape(along)) * scale.reshape(along)
        for user, place in list(node.outputs[0].uses()):
            path = f"{user.op_type.lower()}_{len(model.graph.initializers)}"
            value = ir.Value(name=f"{path}.weight", const_value=ir.tensor(real))
            model.graph.register_initializer(value)
            user.replace_input_with(place, value)
            if place == 1 and user.op_type in _PRODUCTS and _quantized(user):
                transposed = user.attributes.get("transB")
                by_rows = user.op_type == "Conv" or (transposed is not None and transposed.as_int())
                channels = real if by_rows else real.T
                own = np.broadcast_to(scale.reshape(-1), len(channels))
                if shift.any():  # engines want weights about zero
                    own = np.abs(channels.reshape(len(channels), -1)).max(1) / 127
                scales[path] = torch.from_numpy(np.maximum(own, np.finfo(np.float32).tiny))
        model.graph.remove(node, safe=True)
    return scales


def _quantized(node: ir.Node) -> bool:
    """Whether all that reads a product's result, or that of a ReLU behind it, is a quantizer."""
    users = node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type in _SATURATING:
        users = users[0].outputs[0].consumers()
    return bool(users) and all(user.op_type == "QuantizeLinear" for user in users)


def _signed(model: ir.Model, node: ir.Node) -> None:
    """Have int8 in place of uint8, whose zero point is 128 more."""
    zero = _held(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if zero is not None and zero.dtype == np.uint8:
        shifted = (zero.astype(np.int16) - 128).astype(np.int8)
        name = f"zero_{len(model.graph.initializers)}"
        value = ir.Value(name=name, const_value=ir.tensor(shifted))
        model.graph.register_initializer(value)
        node.resize_inputs(3)
        node.replace_input_with(2, value)


def _held(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _round(layer: nn.Linear | nn.Conv1d | nn.Conv2d, scales: torch.Tensor, folded: bool) -> None:
    layer.requires_grad_(False)
    rounded = _Rounded(scales, folded)
    if folded:
        layer.weight = nn.Parameter(rounded.integers(layer.weight), requires_grad=False)
    parametrize.register_parametrization(layer, "weight", rounded, unsafe=folded)


class _Rounded(nn.Module):
    """What the integers of a weight, whose first axis has a scale each, mean: of a float weight, or, if
    `folded`, of the integers."""

    def __init__(self, scales: torch.Tensor, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))

    def integers(self, weight: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _known().quantize_per_channel(weight, self.scales, self.zeros, 0, *_INT8)
        return found

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        integers = weight if self.folded else self.integers(weight)
        found: torch.Tensor = _known().dequantize_per_channel(integers, self.scales, self.zeros, 0, *_INT8)
        return found


def _quantize(x: torch.Tensor, scale: float, zero: int, axis: int = 1, saturate: int = 1) -> torch.Tensor:
    found: torch.Tensor = _known().quantize_per_tensor(x, scale, zero, *_INT8)
    return found


def _dequantize(x: torch.Tensor, scale: float, zero: int, axis: int = 1) -> torch.Tensor:
    found: torch.Tensor = _known().dequantize_per_tensor(x, scale, zero, *_INT8)
    return found


_FUNCTIONS = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}


def _known() -> Any:
    """PyTorch's operators for integers, which are there once they are imported."""
    from torch.ao.quantization.fx import _decomposed  # noqa: F401

    return torch.ops.quantized_decomposed
