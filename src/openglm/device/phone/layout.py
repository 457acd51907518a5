"""How tensors lie in an NPU's memory: channels last, in whole blocks.

ONNX has the channels of images second; such a processor has them last, so that a Transpose between the two is
nothing to do, and a tensor of 33 channels takes the room of 64.
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from openglm.model.analysis.shapes import Shapes

BLOCK = 32
"""Channels of a block."""

PACKED = 4
"""Up to so many channels are packed by fours instead: pictures and masks."""

TILE = 8
"""An image is stored in tiles of so many rows and columns."""

_IMAGE_OPERATORS = frozenset(
    (
        *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "QLinearConv"),
        *("BatchNormalization", "InstanceNormalization", "DepthToSpace", "SpaceToDepth", "GridSample"),
    )
)
_KEEPS = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Relu", "LeakyRelu", "PRelu", "Clip"),
        *("HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Exp", "Log", "Sin", "Cos", "Softplus", "Sqrt"),
        *("Elu", "Erf", "Gelu", "Concat", "Slice", "Split", "Pad", "ReduceMean", "Cast"),
        *("QuantizeLinear", "DequantizeLinear", "Identity"),
    )
)


class Layouts:
    """Which values are images, channels second in ONNX; fed with the nodes of a graph in order."""

    def __init__(self, shapes: Shapes) -> None:
        self._of = shapes.of
        inputs = shapes.graph.inputs
        self._images = {value for value in inputs if value in self._of and len(self._of[value].shape) == 4}

    def follow(self, node: ir.Node) -> None:
        """Note the layout of what `node` makes."""
        if node.op_type in _IMAGE_OPERATORS or self._kept(node):
            self._images.update(node.outputs)

    def only_layout(self, node: ir.Node) -> bool:
        """Whether `node` is a Transpose between channels second and last, which then is noted."""
        if node.op_type != "Transpose":
            return False
        order, source, made = attribute_ints(node, "perm"), node.inputs[0], node.outputs[0]
        if order in ((0, 2, 3, 1), (0, 2, 1)) and source in self._images:
            return True
        if order == (0, 3, 1, 2) and source not in self._images:
            self._images.add(made)
            return True
        users = [use.node for use in made.uses()]
        if order == (0, 2, 1) and users and all(self._makes_rank_4(user) for user in users):
            self._images.add(made)
            return True
        return False

    def stored(self, value: ir.Value) -> int:
        """Elements that a value takes in memory; 0 where its shape is unknown."""
        info = self._of.get(value)
        if info is None or not info.shape:
            return 0
        shape = info.shape
        if value in self._images and len(shape) >= 3:
            return prod((shape[0], *tiled(shape[2:]))) * _channels(shape[1])
        return prod(shape[:-1]) * _channels(shape[-1])

    def _kept(self, node: ir.Node) -> bool:
        if node.op_type == "Reshape" and node.inputs[0] in self._images:  # [n, c, h, w] <-> [n, c, h * w]
            source, made = self._of.get(node.inputs[0]), self._of.get(node.outputs[0])
            if source is None or made is None:
                return False
            return source.shape[:2] == made.shape[:2] and {len(source.shape), len(made.shape)} == {3, 4}
        return node.op_type in _KEEPS and any(value in self._images for value in node.inputs)

    def _makes_rank_4(self, node: ir.Node) -> bool:
        made = self._of.get(node.outputs[0]) if node.op_type == "Reshape" else None
        return made is not None and len(made.shape) == 4


def tiled(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The height and width of an image in whole tiles; of anything else, the last size alone."""
    if len(sizes) == 2 and min(sizes) > 1:
        return up(sizes[0], TILE), up(sizes[1], TILE)
    return (*sizes[:-1], up(sizes[-1], TILE))


def _channels(count: int) -> int:
    return up(count, PACKED if count <= PACKED else BLOCK)


def up(size: int, block: int = BLOCK) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // block) * block


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...]:
    """An attribute that is a list of integers; empty where the node has none."""
    found = node.attributes.get(name)
    return tuple(found.as_ints()) if found is not None else ()
