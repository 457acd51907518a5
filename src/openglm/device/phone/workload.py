"""What one inference asks of an NPU: the kernels that a compiler makes of a graph, by kind.

Compilers fold what depends on weights alone, run an activation or a bias inside the kernel before it, and
move data only where its layout changes. The kinds are those that such processors treat differently:
products go to a matrix unit that works on blocks of 32 channels, everything else to a vector unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from openglm.device.phone.layout import Layouts, attribute_ints, tiled, up
from openglm.model.analysis.contrib import attribute
from openglm.model.analysis.inference import TensorInfo, subgraphs
from openglm.model.analysis.operations import VIEWS, multiply_accumulates
from openglm.model.analysis.shapes import Shapes

_CONVOLUTIONS = frozenset(
    ("Conv", "ConvTranspose", "FusedConv", "DeformConv", "QLinearConv", "ConvInteger", "NhwcConv")
)
_PRODUCTS = frozenset(
    ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "FusedMatMul", "Einsum", "FusedGemm")
)
_PASSED_THROUGH = frozenset(
    ("Shape", "Size", "Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear")
)
_INSIDE = frozenset(("Relu", "LeakyRelu", "PRelu", "Clip", "BatchNormalization", "HardSwish", "HardSigmoid"))
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div"))
_BINARY = _ARITHMETIC | {"Pow", "Min", "Max", "Where", "Equal", "Greater", "Less", "And", "Or", "Mod"}
_HOSTS = frozenset(("curve", "gelu", "bias", "scalar", "residual", "broadcast", "layer_norm"))
_ROWS = frozenset(("Gather", "GatherND", "GatherElements", "Slice", "Split"))
_KINDS = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), "softmax"),
    **dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization"), "layer_norm"),
    **dict.fromkeys(("SkipLayerNormalization", "RMSNormalization"), "layer_norm"),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), "instance_norm"),
    **dict.fromkeys(("Erf", "Gelu", "FastGelu", "BiasGelu"), "gelu"),
    **dict.fromkeys(("Sigmoid", "Tanh", "Exp", "Log", "Sin", "Cos", "Softplus", "Sqrt", "Elu"), "curve"),
    "GridSample": "gather",
    **dict.fromkeys(("Gather", "GatherND", "GatherElements", "ScatterND", "TopK", "NonZero"), "gather"),
    "Transpose": "transpose",
    "Concat": "concat",
    **dict.fromkeys(("Slice", "Split"), "slice"),
    **dict.fromkeys(("Pad", "Tile", "Expand"), "pad"),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), "shuffle"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent"),
}
LARGE_WINDOW = 9
"""A pooling over more elements costs by its window."""

SMALL_VIEW = 4096
"""A reshape of fewer elements is not counted."""


@dataclass(frozen=True)
class Kernel:
    """One operator as the processor runs it, with what was fused into it."""

    node: str
    op_type: str
    kind: str
    macs: int
    """Multiply-accumulates by definition."""
    padded: int
    """The same with channels, height and width in whole blocks; of a large pooling, what its windows read."""
    weights: int
    """Elements of constants that it reads."""
    read: int
    """Elements of activations that it reads, as they are stored."""
    written: int
    groups: int = 1
    """Of a grouped convolution that is not depthwise."""


def kernels(shapes: Shapes) -> list[Kernel]:
    """The kernels of a graph, in its order; of control flow, each body once."""
    walk = _Walk(shapes)
    walk.graph(shapes.graph)
    return walk.made


def boundary_elements(shapes: Shapes) -> int:
    """Elements that go into the graph and come out of it."""
    values = (*shapes.graph.inputs, *shapes.graph.outputs)
    return sum(shapes.of[value].elements for value in values if value in shapes.of)


class _Walk:
    """One walk over a graph, in order."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.made: list[Kernel] = []
        self._static: set[ir.Value] = set()
        """Values that depend on weights alone."""
        self._inside: dict[ir.Value, int] = {}
        """What a kernel makes that others may be fused into, and its index."""
        self._layouts = Layouts(shapes)

    def graph(self, graph: ir.Graph) -> None:
        self._static.update(graph.initializers.values())
        for node in graph:
            for body in subgraphs(node):
                self.graph(body)
            given = [value for value in node.inputs if value is not None]
            known = bool(node.outputs) and all(value in self.shapes.constants for value in node.outputs)
            folded = bool(given) and all(value in self._static for value in given)
            if node.op_type == "Constant" or known or folded:
                self._static.update(node.outputs)
            elif not self._layouts.only_layout(node):
                self._layouts.follow(node)
                self._node(node, given)

    def _node(self, node: ir.Node, given: list[ir.Value]) -> None:
        if node.op_type in _PASSED_THROUGH:
            if given and given[0] in self._inside:
                self._inside[node.outputs[0]] = self._inside[given[0]]
            return
        host = self._host(node)
        if host is not None:
            self._inside[node.outputs[0]] = host
            return
        kernel = self._kernel(node)
        if kernel is not None:
            self.made.append(kernel)
            if node.outputs and (kernel.macs or kernel.kind in _HOSTS):
                self._inside[node.outputs[0]] = len(self.made) - 1

    def _host(self, node: ir.Node) -> int | None:
        """The kernel that `node` runs inside, being all that reads what the kernel makes."""
        dynamic = [value for value in node.inputs if value is not None and value not in self._static]
        if node.op_type not in _INSIDE and node.op_type not in _ARITHMETIC:
            return None
        if len(dynamic) == 1 and self._alone(dynamic[0]):
            return self._inside[dynamic[0]]
        # x * sigmoid(x), x * (1 + erf(x)): one activation.
        sizes = {self.shapes.of[value].elements for value in dynamic if value in self.shapes.of}
        if node.op_type == "Mul" and len(dynamic) == 2 and len(sizes) == 1:
            for value in dynamic:
                if self._alone(value) and self.made[self._inside[value]].kind in ("curve", "gelu"):
                    return self._inside[value]
        return None

    def _alone(self, value: ir.Value) -> bool:
        return value in self._inside and len(value.uses()) == 1

    def _kernel(self, node: ir.Node) -> Kernel | None:
        inputs = [self.shapes.of.get(value) if value else None for value in node.inputs]
        outputs = [self.shapes.of.get(value) for value in node.outputs]
        macs = multiply_accumulates(node, inputs, outputs)
        kind, padded = self._kind(node, inputs, outputs, macs)
        if kind == "view":
            return None
        read = written = weights = 0
        for value, info in zip(node.inputs, inputs, strict=True):
            if value is not None and info is not None:
                if value in self._static:
                    weights += info.elements
                else:
                    read += self._layouts.stored(value)
        written = sum(self._layouts.stored(value) for value in node.outputs)
        if kind in ("reshape", "transpose"):
            read = written = sum(info.elements for info in outputs if info)
        if node.op_type in _ROWS:
            weights, read = 0, written
        name = node.name or (node.outputs[0].name if node.outputs else "") or node.op_type
        if kind == "pool_large":
            padded = written * prod(attribute_ints(node, "kernel_shape"))
        groups = attribute(node, "group", 1) if kind == "grouped" else 1
        return Kernel(name, node.op_type, kind, macs, padded, weights, read, written, groups)

    def _kind(
        self, node: ir.Node, inputs: list[TensorInfo | None], outputs: list[TensorInfo | None], macs: int
    ) -> tuple[str, int]:
        """The kind of a kernel, and its multiply-accumulates in whole blocks."""
        op_type = node.op_type
        made = outputs[0] if outputs else None
        if op_type in _CONVOLUTIONS:
            kind, padded = _convolution(node, inputs[3 if op_type == "QLinearConv" else 1], macs)
            sizes = made.shape[2:] if made else ()
            if len(sizes) == 2 and min(sizes) > 1:
                padded = padded * prod(tiled(sizes)) // prod(sizes)
            return kind, padded
        if op_type in _PRODUCTS:
            return self._product(node, made, macs)
        if op_type == "Resize":
            mode = node.attributes.get("mode")
            return ("resize" if mode is None or mode.as_string() == "nearest" else "resize_linear"), 0
        if op_type in _KINDS:
            return _KINDS[op_type], macs
        if "Attention" in op_type:
            return "attention", macs
        if op_type.startswith(("Reduce", "Global", "ArgM", "CumSum")):
            return "reduce", 0
        if op_type.endswith("Pool"):
            window = prod(attribute_ints(node, "kernel_shape"))
            return ("pool_large" if window > LARGE_WINDOW else "pool"), 0
        if op_type in VIEWS:
            source = inputs[0] if inputs else None
            # Where the channels stay in place nothing moves.
            kept = source is None or made is None or source.shape[-1:] == made.shape[-1:]
            return ("view" if kept or (made and made.elements < SMALL_VIEW) else "reshape"), 0
        if op_type in _BINARY:
            return self._binary(node), 0
        return ("clip" if op_type in _INSIDE else "other"), macs

    def _product(self, node: ir.Node, output: TensorInfo | None, macs: int) -> tuple[str, int]:
        if output is None or not output.elements or not output.shape:
            return "linear", macs
        columns, reduced = output.shape[-1], macs // output.elements
        rows = output.elements // columns
        if any(value in self._static for value in node.inputs[:2]):
            # A few rows: nothing but reading the weights.
            return ("vector_product", macs) if rows <= 4 else ("linear", up(reduced) * up(columns) * rows)
        height = output.shape[-2] if len(output.shape) > 1 else 1
        return "attention", up(reduced) * up(columns) * up(height, 8) * (rows // max(height, 1))

    def _binary(self, node: ir.Node) -> str:
        infos = [(value, self.shapes.of.get(value)) for value in node.inputs if value is not None]
        dynamic = [info for value, info in infos if value not in self._static]
        if len(dynamic) < 2:
            constants = [info.elements for value, info in infos if info and value in self._static]
            return "scalar" if max(constants, default=1) == 1 else "bias"
        return "residual" if len({info.elements for info in dynamic if info}) <= 1 else "broadcast"


def _convolution(node: ir.Node, weight: TensorInfo | None, macs: int) -> tuple[str, int]:
    if weight is None or len(weight.shape) < 3:
        return "conv", macs
    groups, window = max(attribute(node, "group", 1), 1), prod(weight.shape[2:])
    taken, given = weight.shape[1], weight.shape[0] // groups
    if node.op_type == "ConvTranspose":
        taken, given = weight.shape[0] // groups, weight.shape[1]
    padded = int(macs * up(taken) * up(given) / max(taken * given, 1))
    if len(weight.shape) == 5:  # disjoint patches are a matrix product
        return ("linear" if weight.shape[2:] == attribute_ints(node, "strides") else "conv_3d"), padded
    if node.op_type == "ConvTranspose":
        return "conv_transpose", padded
    if groups > 1:
        return ("depthwise", macs) if taken == 1 else ("grouped", padded)
    if taken <= 16 and window > 1:
        return "conv_first", padded
    if window == 1:
        return "conv_1x1", padded
    return ("conv_dilated" if max(attribute_ints(node, "dilations"), default=1) > 1 else "conv"), padded
