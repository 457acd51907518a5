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

from openglm.passes import affine
from openglm.passes.calibration import Method, observe, observer
from openglm.passes.contract import Applied, Context, PassConfig
from openglm.passes.rewriting import Rewriter, attribute, clean, constant, constant_of, heads
from openglm.errors import InputError

_PRODUCTS = ("Conv", "MatMul", "Gemm")
_SMALLEST = 4096
# Operators with integer kernels; they join a stream of integers but never start one.
_FOLLOW = ("Add", "Concat", "AveragePool", "GlobalAveragePool")
# Operators that move values without changing them: their output has their input's scale.
_MOVE = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")


class StaticInt8(PassConfig):
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

    @property
    def code(self) -> str:
        method = self.method if self.method != "percentile" else f"percentile_{self.percentile:g}"
        parts = [self.scheme, method]
        parts += ["symmetric"] if self.symmetric else []
        parts += [] if self.per_channel else ["per_tensor"]
        parts += ["w7"] if self.weight_bits == 7 else []
        return "_".join(parts)

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        if context.calibration is None:
            raise InputError("Static quantization needs calibration data.", "Give --data, or use a dynamic scheme.")
        model = graph.clone()
        stream = _Stream.of(model)
        if not stream.products:
            return Applied(model, False, ("There is no layer to quantize.",))
        ranges = observe(
            model, stream.observed(), context.calibration(), observer(self.method, self.percentile), context.progress
        )
        made: dict[ir.Value, _Quantized] = {}
        for value in stream.ordered():
            origin = stream.moved.get(value)
            if origin is not None and origin in made:
                scale, zero = made[origin].scale, made[origin].zero
            else:
                scale, zero = self._affine(*ranges[str(value.name)])
            made[value] = _insert(model, stream, value, scale, zero)
        kept = [self._quantize_weights(model, node, made) for node in stream.products]
        clean(model)
        return Applied(model, True, tuple(note for note in kept if note))

    def _affine(self, low: float, high: float) -> tuple[np.float32, int]:
        if self.symmetric:
            reach = max(abs(low), abs(high))
            return np.float32(reach / 127 if reach > 1e-30 else 1.0), 128
        return affine.asymmetric_range(low, high)

    def _quantize_weights(self, model: ir.Model, node: ir.Node, made: dict[ir.Value, _Quantized]) -> str:
        """Put int8 weights, and an int32 bias, before a product."""
        weight_value = node.inputs[1]
        weight = constant_of(weight_value)
        assert weight is not None and weight_value is not None
        axis = {"Conv": 0, "MatMul": 1, "Gemm": 0 if attribute(node, "transB", 0) else 1}[node.op_type]
        integers, scales = affine.symmetric(weight, axis if self.per_channel else None, self.weight_bits)
        rewriter = Rewriter(model, node)
        name = str(weight_value.name)
        scale = rewriter.constant(f"{name}_scale", scales)
        zero = rewriter.constant(f"{name}_zero", np.zeros(scales.shape, np.int8))
        attributes = {"axis": axis} if self.per_channel else {}
        stored = rewriter.constant(f"{name}_int8", integers)
        node.replace_input_with(1, rewriter.op("DequantizeLinear", [stored, scale, zero], attributes))
        bias_value = node.inputs[2] if len(node.inputs) > 2 else None
        bias = constant_of(bias_value)
        if bias is None or bias_value is None:
            return ""
        source = next(item for item in made.values() if item.output is node.inputs[0])
        product_scale = (scales * source.scale).astype(np.float32)
        steps = np.rint(bias.astype(np.float64) / product_scale)
        if np.abs(steps).max(initial=0) > np.iinfo(np.int32).max:
            return f"The bias of {name} does not fit 32 bits at its scale and stays float."
        stored = rewriter.constant(f"{bias_value.name}_int32", steps.astype(np.int32))
        scale = rewriter.constant(f"{bias_value.name}_scale", product_scale)
        zero = rewriter.constant(f"{bias_value.name}_zero", np.zeros(scales.shape, np.int32))
        attributes = {"axis": 0} if self.per_channel else {}
        node.replace_input_with(2, rewriter.op("DequantizeLinear", [stored, scale, zero], attributes))
        return ""


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
    def of(cls, model: ir.Model) -> _Stream:
        logits = heads(model)
        stream = cls([], set(), {}, {}, model)
        for node in model.graph:
            if node.domain:
                continue
            data = node.inputs[0] if node.inputs else None
            if node.op_type in _PRODUCTS and data is not None and constant_of(data) is None:
                weight = constant_of(node.inputs[1])
                if weight is None or weight.dtype != np.float32 or not _takes(node, weight):
                    continue
                # A convolution without an integer output has no integer kernel, so one at a head stays float.
                if node.op_type == "Conv" and node in logits:
                    continue
                stream.products.append(node)
                stream.read.setdefault(data, []).append((node, 0))
                if node.op_type == "Conv":
                    stream._follow(node)
            elif node.op_type in _FOLLOW and stream._streams(node):
                stream.read |= {v: stream.read.get(v, []) for v in node.inputs if v is not None}
                for index, value in enumerate(node.inputs):
                    if value is not None:
                        stream.read[value].append((node, index))
                stream._follow(node)
            elif node.op_type in _MOVE and data in stream.flow and not node.outputs[0].is_graph_output():
                stream.flow.add(node.outputs[0])
                stream.moved[node.outputs[0]] = data
        return stream

    def _streams(self, node: ir.Node) -> bool:
        values = list(node.inputs)
        return (
            any(value in self.flow for value in values)
            and not any(value is None or constant_of(value) is not None for value in values)
            and not node.outputs[0].is_graph_output()
        )

    def _follow(self, node: ir.Node) -> None:
        """Let the result of an integer operator, after its ReLU where it has one, join the stream."""
        output = node.outputs[0]
        uses = output.uses()
        if len(uses) == 1 and uses[0].node.op_type in ("Relu", "Clip") and not output.is_graph_output():
            output = uses[0].node.outputs[0]
        if not output.is_graph_output():
            self.flow.add(output)

    def ordered(self) -> list[ir.Value]:
        """All quantized tensors in graph order."""
        everything = [*self.model.graph.inputs, *(v for node in self.model.graph for v in node.outputs)]
        return [value for value in everything if value in self.flow or value in self.read]

    def observed(self) -> list[ir.Value]:
        """The tensors whose range has to be seen."""
        return [value for value in self.ordered() if value not in self.moved]


def _takes(node: ir.Node, weight: np.ndarray) -> bool:
    if node.op_type == "Conv":
        # Integer kernels take input channels in fours: on a picture's three, with nothing to share
        # the rearranging with, they are slower than the float ones.
        return weight.shape[1] * attribute(node, "group", 1) >= 4
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    return plain and weight.ndim == 2 and weight.size >= _SMALLEST


def _insert(model: ir.Model, stream: _Stream, value: ir.Value, scale: np.float32, zero: int) -> _Quantized:
    """Put a quantize / dequantize pair behind `value`, for all its users or for its products only."""
    uses = list(value.uses()) if value in stream.flow else stream.read[value]
    producer = value.producer()
    source = value
    if producer is not None and producer.op_type in ("Relu", "Clip") and _saturates(producer, scale, zero):
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
        return zero == 0
    low, high = (constant_of(item) if item is not None else None for item in (*node.inputs[1:], None, None)[:2])
    slack = 0.01 * float(scale)
    reaches_low = low is None or -zero * float(scale) >= float(low) - slack
    reaches_high = high is None or (255 - zero) * float(scale) <= float(high) + slack
    return reaches_low and reaches_high
