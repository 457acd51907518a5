"""Static int8: weights and activations as 8-bit integers with ranges found beforehand on data.

The graph gets QuantizeLinear / DequantizeLinear pairs, which engines turn into integer operators.
Convolutions, and what stands between them, stay in integers from one to the next; around linear
layers only the activations that a product reads are quantized, and its result is float again, so
that additions, normalisation and logits keep their precision and nothing clips at a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from pydantic import Field

from openglm.errors import InputError
from openglm.passes import affine
from openglm.passes.calibration import Method, observe, observer
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.embeddings import quantize_rows
from openglm.passes.rewriting import (
    attribute,
    clean,
    constant,
    constant_of,
    editable,
    heads,
    is_of,
    is_plain,
    weight_of,
)

_PRODUCTS = ("Conv", "MatMul", "Gemm")
_SMALLEST = 4096
# Operators with integer kernels; they join a stream of integers but never start one.
_FOLLOW = ("Add", "Concat", "AveragePool", "GlobalAveragePool")
# Operators that quantizing can do as it cuts.
_SATURATING = ("Relu", "Clip")
# Operators that move values without changing them: their output has their input's scale.
_MOVE = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


class StaticInt8(GraphPass):
    """int8 weights, and uint8 activations in ranges taken from calibration data."""

    scheme: ClassVar[str] = "static_wi8_ai8"
    needs_calibration: ClassVar[bool] = True

    method: Method = "minmax"
    """How a range is chosen: the extremes, a percentile, or the least divergence (entropy)."""
    percentile: float = Field(default=99.99, gt=50, le=100)
    """With "percentile": the share of values that the range holds."""
    symmetric: bool = False
    """Activation ranges centred on zero; else their own two ends."""
    per_channel: bool = True
    """One scale for each output channel of a weight, else one for each weight."""
    weight_bits: Literal[7, 8] = 8
    """7 keeps products within 16 bits, for x86 processors without VNNI."""
    embeddings: bool = True
    """Store embedding tables as int8 rows."""
    skip: tuple[str, ...] = ()
    """Modules, by their dotted paths, whose layers stay float."""

    @property
    def code(self) -> str:
        method = self.method if self.method != "percentile" else f"percentile_{self.percentile:g}"
        parts = [self.scheme, method]
        parts += ["symmetric"] if self.symmetric else []
        parts += [] if self.per_channel else ["per_tensor"]
        parts += ["w7"] if self.weight_bits == 7 else []
        parts += [] if self.embeddings else ["embeddings_float"]
        parts += [f"but_{len(self.skip)}"] if self.skip else []
        return "_".join(parts)

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        if context.calibration is None:
            raise InputError(
                "Static quantization needs calibration data.", "Give --data, or use a dynamic scheme."
            )
        model = editable(graph)
        stream = _Stream.of(model, self.skip)
        if not stream.products:
            return Applied(model, False, ("There is no layer to quantize.",))
        make = observer(self.method, self.percentile)
        ranges = observe(model, stream.observed(), context.calibration(), make, context.progress)
        made: dict[ir.Value, _Quantized] = {}
        for value in stream.ordered():
            origin = stream.moved.get(value)
            if origin is not None and origin in made:
                scale, zero = made[origin].scale, made[origin].zero
            else:
                scale, zero = self._affine(*ranges[str(value.name)])
            made[value] = _insert(model, stream, value, scale, zero)
        scales = {item.output: float(item.scale) for item in made.values()}
        weights = _Weights(model, self.per_channel, self.weight_bits)
        for node in stream.products:
            source = node.inputs[0]
            assert source is not None
            weights.quantize(node, scales[source])
        clean(model)
        if self.embeddings and quantize_rows(model):
            clean(model)
        return Applied(model, True)

    def _affine(self, low: float, high: float) -> tuple[np.float32, int]:
        if self.symmetric:
            reach = max(abs(low), abs(high))
            return np.float32(reach / 127 if reach > 1e-30 else 1.0), 128
        return affine.asymmetric_range(low, high)


class _Weights:
    """int8 weights and int32 biases of products, each made once where layers share them."""

    def __init__(self, model: ir.Model, per_channel: bool, bits: int) -> None:
        self._model = model
        self._per_channel = per_channel
        self._bits = bits
        self._made: dict[tuple[object, ...], list[ir.Value]] = {}

    def quantize(self, node: ir.Node, input_scale: float) -> None:
        """Let `node` read its weight, and its bias where it has a constant one, from integers."""
        weight = weight_of(node)
        assert weight is not None
        axis = {"Conv": 0, "MatMul": 1, "Gemm": 0 if attribute(node, "transB", 0) else 1}[node.op_type]
        bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None and bias.shape != (weight.shape[axis],):
            bias = None  # one that is broadcast in another way stays float
        along = axis if self._per_channel else None
        least: np.ndarray | float = 0.0
        if bias is not None:
            # A channel that is all bias, as pruning and folding leave them, would otherwise have
            # a scale at which its bias does not fit 32 bits, or, if its weights are zeros, any scale.
            least = np.abs(bias.astype(np.float64)) / (input_scale * 2**30)
            least = least if self._per_channel else float(least.max())
        integers, scales = affine.symmetric(weight, along, self._bits, least)
        self._put(node, 1, integers, scales, axis)
        # A convolution's bias is left to the engine, which makes the same integers of it when it loads
        # (so does ONNX Runtime) or adds it as it is: with scale and zero point it takes three times
        # the space, 2 % of a small network. A Gemm with a float bias gets no integer kernel.
        if bias is not None and node.op_type != "Conv":
            product = np.maximum(scales * np.float64(input_scale), np.finfo(np.float32).tiny)
            scales = np.asarray(product, np.float32)
            steps = np.rint(bias.astype(np.float64) / scales)
            self._put(node, 2, steps.astype(np.int32), scales, 0)

    def _put(self, node: ir.Node, index: int, integers: np.ndarray, scales: np.ndarray, axis: int) -> None:
        value = node.inputs[index]
        assert value is not None
        key = (value, axis, scales.tobytes())
        if key not in self._made:
            arrays = {"int8" if index == 1 else "int32": integers, "scale": scales}
            # Zero is what a zero point is where none is given. A Gemm gets its integer kernel only
            # where it is spelt out, and ONNX Runtime's exact kernels for x86 without VNNI need it.
            if index == 1:
                arrays["zero"] = np.zeros(scales.shape, integers.dtype)
            self._made[key] = [
                constant(self._model, f"{value.name}_{end}", item) for end, item in arrays.items()
            ]
        attributes = {"axis": axis} if self._per_channel else {}
        dequantize = ir.node("DequantizeLinear", self._made[key], attributes)
        assert node.graph is not None
        node.graph.insert_before(node, dequantize)
        node.replace_input_with(index, dequantize.outputs[0])


@dataclass(frozen=True)
class _Quantized:
    """A tensor that went through integers."""

    output: ir.Value
    scale: np.float32
    zero: int


@dataclass
class _Stream:
    """Which tensors are quantized, and for whom."""

    products: list[ir.Node]
    flow: set[ir.Value]
    """Tensors that integer operators make: all their users take the quantized form."""
    read: dict[ir.Value, list[tuple[ir.Node, int]]]
    """Tensors that only products take quantized: those uses."""
    moved: dict[ir.Value, ir.Value]
    """Tensors that hold another's values, moved: that other."""
    model: ir.Model

    @classmethod
    def of(cls, model: ir.Model, skip: tuple[str, ...] = ()) -> _Stream:
        logits = heads(model)
        stream = cls([], set(), {}, {}, model)
        for node in model.graph:
            if node.domain:
                continue
            data = node.inputs[0] if node.inputs else None
            if node.op_type in _PRODUCTS and data is not None and not data.is_initializer():
                weight = weight_of(node)
                if weight is None or weight.dtype != np.float32 or not _takes(node, weight):
                    continue
                if is_of(node, skip):
                    continue
                if node.op_type == "Conv":
                    result = _result(node)
                    # Without an integer result it has no integer kernel, so one at a head stays float.
                    if result is None or node in logits:
                        continue
                    stream.flow.add(result)
                stream.products.append(node)
                stream.read.setdefault(data, []).append((node, 0))
            elif node.op_type in _FOLLOW and stream._reaches(node):
                result = _result(node)
                if result is None:
                    continue
                stream.flow.add(result)
                for index, value in enumerate(node.inputs):
                    if value is not None:
                        stream.read.setdefault(value, []).append((node, index))
            elif node.op_type in _MOVE and data in stream.flow and not node.outputs[0].is_graph_output():
                stream.flow.add(node.outputs[0])
                stream.moved[node.outputs[0]] = data
        return stream

    def _reaches(self, node: ir.Node) -> bool:
        """Whether integers come in, and no constant, which is not observed."""
        values = list(node.inputs)
        return any(value in self.flow for value in values) and not any(
            value is None or value.is_initializer() for value in values
        )

    def ordered(self) -> list[ir.Value]:
        """All quantized tensors in graph order."""
        everything = [*self.model.graph.inputs, *(v for node in self.model.graph for v in node.outputs)]
        return [value for value in everything if value in self.flow or value in self.read]

    def observed(self) -> list[ir.Value]:
        """The tensors whose range has to be seen."""
        return [value for value in self.ordered() if value not in self.moved]


def _result(node: ir.Node) -> ir.Value | None:
    """What an integer operator makes, after its ReLU where it has one; none where that is an output."""
    output = node.outputs[0]
    users = output.consumers()
    if len(users) == 1 and not output.is_graph_output():
        user = users[0]
        if user.op_type in _SATURATING and user.graph is node.graph and user.inputs[0] is output:
            output = user.outputs[0]
    return None if output.is_graph_output() else output


def _takes(node: ir.Node, weight: np.ndarray) -> bool:
    if node.op_type == "Conv":
        # Integer kernels take input channels in fours: on a picture's three, with nothing to share
        # the rearranging with, they are slower than the float ones.
        return bool(weight.shape[1] * attribute(node, "group", 1) >= 4)
    return is_plain(node) and weight.ndim == 2 and weight.size >= _SMALLEST


def _insert(model: ir.Model, stream: _Stream, value: ir.Value, scale: np.float32, zero: int) -> _Quantized:
    """Put a quantize / dequantize pair behind `value`, for all its users or for its products only."""
    uses = list(value.uses()) if value in stream.flow else stream.read[value]
    producer = value.producer()
    source = value
    if producer is not None and producer.op_type in _SATURATING and _saturates(producer, scale, zero):
        source = producer.inputs[0]  # type: ignore[assignment]
    steps = [constant(model, f"{value.name}_scale", np.array(scale, np.float32))]
    steps.append(constant(model, f"{value.name}_zero", np.array(zero, np.uint8)))
    quantize = ir.node("QuantizeLinear", [source, *steps])
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *steps])
    if producer is None:
        model.graph.insert_before(model.graph[0], [quantize, dequantize])
    else:
        model.graph.insert_after(producer, [quantize, dequantize])
    for user, index in uses:
        user.replace_input_with(index, dequantize.outputs[0])
    return _Quantized(dequantize.outputs[0], scale, zero)


def _saturates(node: ir.Node, scale: np.float32, zero: int) -> bool:
    """Whether quantizing cuts values where `node` (a Relu or Clip) would, so that it can go."""
    if node.op_type == "Relu":
        return not zero
    bounds = [*node.inputs[1:3], None, None][:2]
    low, high = (None if bound is None else constant_of(bound) for bound in bounds)
    if any(bound is not None and constant_of(bound) is None for bound in bounds):
        return False
    slack = 0.01 * float(scale)
    reaches_low = low is None or -zero * float(scale) >= float(low) - slack
    reaches_high = high is None or (255 - zero) * float(scale) <= float(high) + slack
    return reaches_low and reaches_high
