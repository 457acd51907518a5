"""Back to float32: the graph that a quantized one stands for, for engines that quantize in their own way.

Weights become the numbers that their integers mean, so that quantizing them again the same way gives the
same integers. Activations are computed in float32, cut off where their integers would have ended, since
that cut may stand for a ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from openglm.passes import affine
from openglm.passes.contract import Applied, Context, GraphPass
from openglm.passes.rewriting import (
    MICROSOFT,
    Rewriter,
    attribute,
    clean,
    constant,
    constant_of,
    editable,
)

_HALF = ir.DataType.FLOAT16


class Dequantize(GraphPass):
    """Floats in place of all integers that quantization made, of half precision too."""

    scheme: ClassVar[str] = "dequantize"

    def apply(self, graph: ir.Model, context: Context) -> Applied:
        model = editable(graph)
        changed = _widen(model)
        for node in list(model.graph.all_nodes()):
            rewrite = _REWRITES.get((node.domain, node.op_type))
            changed |= rewrite is not None and node.graph is not None and rewrite(model, node)
        clean(model)
        changed |= _fold(model)
        clean(model)
        return Applied(model, changed)


def _widen(model: ir.Model) -> bool:
    """float32 constants for those of half precision, and no cast to it; whether there were any."""
    found = False
    for value in list(model.graph.initializers.values()):
        half = value.const_value is not None and value.const_value.dtype == _HALF
        if half and (array := constant_of(value)) is not None and not value.is_graph_output():
            wide = constant(model, str(value.name), array.astype(np.float32))
            value.replace_all_uses_with(wide)
            found = True
    for node in model.graph.all_nodes():
        to_half = node.op_type == "Cast" and attribute(node, "to", 0) == _HALF
        if to_half and not node.outputs[0].is_graph_output():
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
            found = True
    return found


def _integer_product(model: ir.Model, node: ir.Node) -> bool:
    """MatMulInteger of what DynamicQuantizeLinear makes, cast and scaled: one product of floats."""
    quantizer = None if node.inputs[0] is None else node.inputs[0].producer()
    weight = constant_of(node.inputs[1])
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear" or weight is None:
        return False
    cast = _only_user(node)
    scaled = None if cast is None or cast.op_type != "Cast" else _only_user(cast)
    if scaled is None or scaled.op_type != "Mul":
        return False
    assert cast is not None
    scale = _other(scaled, cast.outputs[0])
    both = None if scale is None else scale.producer()
    if both is None or both.op_type != "Mul":
        return False
    own = constant_of(_other(both, quantizer.outputs[1]))
    zero = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    if own is None:
        return False
    shifted = weight.astype(np.float32) - (0 if zero is None else zero.astype(np.float32))
    rewriter = Rewriter(model, node)
    real = rewriter.constant(_base(node.inputs[1]), shifted * own)
    rewriter.replace(scaled.outputs[0], rewriter.op("MatMul", [quantizer.inputs[0], real]))
    return True


def _scaled_product(model: ir.Model, node: ir.Node) -> bool:
    """A product with integers that were cast, scaled by its columns: one with the scaled weights."""
    cast = None if node.inputs[1] is None else node.inputs[1].producer()
    integers = None if cast is None or cast.op_type != "Cast" else constant_of(cast.inputs[0])
    scaled = _only_user(node)
    if integers is None or integers.dtype != np.int8 or scaled is None or scaled.op_type != "Mul":
        return False
    assert cast is not None
    scale = constant_of(_other(scaled, node.outputs[0]))
    if scale is None or scale.ndim != 1:
        return False
    turned = {"transB": 1} if attribute(node, "transB", 0) else {}
    rewriter = Rewriter(model, scaled)
    real = rewriter.constant(
        _base(cast.inputs[0]), integers.astype(np.float32) * (scale[:, None] if turned else scale)
    )
    rewriter.replace(scaled.outputs[0], rewriter.op(node.op_type, [node.inputs[0], real], turned))
    return True


def _row(model: ir.Model, node: ir.Node) -> bool:
    """A row of integers, cast and scaled by its own number: a row of floats."""
    parts = [value.producer() for value in node.inputs if value is not None]
    if len(parts) != 2 or any(part is None for part in parts):
        return False
    cast, scale = parts
    assert cast is not None
    assert scale is not None
    rows = None if cast.inputs[0] is None else cast.inputs[0].producer()
    if cast.op_type != "Cast" or scale.op_type != "Gather" or rows is None or rows.op_type != "Gather":
        return False
    integers, scales = constant_of(rows.inputs[0]), constant_of(scale.inputs[0])
    if (
        integers is None
        or scales is None
        or integers.dtype != np.int8
        or rows.inputs[1] is not scale.inputs[1]
    ):
        return False
    rewriter = Rewriter(model, node)
    table = rewriter.constant(_base(rows.inputs[0]), integers.astype(np.float32) * scales)
    rewriter.replace(node.outputs[0], rewriter.op("Gather", [table, rows.inputs[1]]))
    return True


def _blocks(model: ir.Model, node: ir.Node) -> bool:
    """MatMulNBits: a product with the matrix that its blocks hold."""
    packed, scales = constant_of(node.inputs[1]), constant_of(node.inputs[2])
    zeros = constant_of(node.inputs[3]) if len(node.inputs) > 3 else None
    if packed is None or scales is None:
        return False
    inputs, outputs = attribute(node, "K", 0), attribute(node, "N", 0)
    bits, size = attribute(node, "bits", 4), attribute(node, "block_size", 0)
    count = -(-inputs // size)
    integers = _unpacked(packed, bits).reshape(outputs, count, -1)[..., :size]
    middle: np.ndarray | float = 2.0 ** (bits - 1)
    if zeros is not None:
        middle = _unpacked(zeros.reshape(outputs, -1), bits)[:, :count, None].astype(np.float32)
    real = (integers.astype(np.float32) - middle) * scales.reshape(outputs, count, 1)
    weight = real.reshape(outputs, count * size)[:, :inputs].T
    rewriter = Rewriter(model, node)
    held = rewriter.constant(_base(node.inputs[1]), np.ascontiguousarray(weight, np.float32))
    rewriter.replace(node.outputs[0], rewriter.op("MatMul", [node.inputs[0], held]))
    return True


def _block_rows(model: ir.Model, node: ir.Node) -> bool:
    """GatherBlockQuantized of signed 4-bit rows: a row of floats."""
    integers, scales = constant_of(node.inputs[0]), constant_of(node.inputs[2])
    size = attribute(node, "block_size", 0)
    if integers is None or scales is None or len(node.inputs) > 3 or attribute(node, "gather_axis", 0):
        return False
    table = integers.astype(np.float32) * np.repeat(scales, size, axis=1)
    rewriter = Rewriter(model, node)
    held = rewriter.constant(_base(node.inputs[0]), table)
    rewriter.replace(node.outputs[0], rewriter.op("Gather", [held, node.inputs[1]]))
    return True


def _activation(model: ir.Model, node: ir.Node) -> bool:
    """What goes through integers and comes back: cut off where these end."""
    quantizer = None if node.inputs[0] is None else node.inputs[0].producer()
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return False
    scale = constant_of(node.inputs[1])
    zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
        return False
    ends = np.iinfo(zero.dtype)
    rewriter = Rewriter(model, node)
    bounds = [
        rewriter.constant(
            "bound", np.array((end - int(zero.reshape(()))) * float(scale.reshape(())), np.float32)
        )
        for end in (ends.min, ends.max)
    ]
    rewriter.replace(node.outputs[0], rewriter.op("Clip", [quantizer.inputs[0], *bounds]))
    return True


def _fold(model: ir.Model) -> bool:
    """Numbers in place of all that is computed from constants alone; whether there was any."""
    folded = False
    for node in list(model.graph):
        made = node.outputs[0]
        known = [constant_of(value) for value in node.inputs if value is not None]
        if len(node.outputs) != 1 or made.is_graph_output() or not known or any(one is None for one in known):
            continue
        if any(
            attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attr in node.attributes.values()
        ):
            continue
        made.replace_all_uses_with(constant(model, str(made.name), _computed(model, node)))
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        folded = True
    return folded


def _computed(model: ir.Model, node: ir.Node) -> np.ndarray:
    """What a node makes of its constants, by ONNX's own definition of the operator."""
    values = [
        None if value is None else ir.Value(name=f"in_{place}") for place, value in enumerate(node.inputs)
    ]
    copy = ir.node(node.op_type, values, domain=node.domain)
    copy.attributes.update(node.attributes)
    copy.outputs[0].name = "out"
    for value, source in zip(values, node.inputs, strict=True):
        if value is not None and source is not None:
            value.type, value.shape = source.type, source.shape
    graph = ir.Graph(
        [value for value in values if value is not None],
        copy.outputs,
        nodes=[copy],
        opset_imports=dict(model.graph.opset_imports),
    )
    feeds = {
        f"in_{place}": constant_of(value) for place, value in enumerate(node.inputs) if value is not None
    }
    proto = ir.to_proto(ir.Model(graph, ir_version=model.ir_version))
    (found,) = ReferenceEvaluator(proto).run(None, feeds)
    return np.asarray(found)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The integers along the last axis, two of four bits in each byte; undoes `affine.pack_nibbles`."""
    return affine.unpack_nibbles(packed) if bits == 4 else packed


def _only_user(node: ir.Node) -> ir.Node | None:
    users = list(node.outputs[0].uses())
    return users[0].node if len(users) == 1 and not node.outputs[0].is_graph_output() else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other input of a node that has two."""
    one, two = node.inputs
    return two if one is value else one if two is value else None


def _base(value: ir.Value | None) -> str:
    """A weight's name before it was quantized."""
    name = str(None if value is None else value.name)
    return next((name.removesuffix(end) for end in ("_int8", "_int4") if name.endswith(end)), name)


_REWRITES: dict[tuple[str, str], Callable[[ir.Model, ir.Node], bool]] = {
    ("", "MatMulInteger"): _integer_product,
    ("", "MatMul"): _scaled_product,
    ("", "Gemm"): _scaled_product,
    ("", "Mul"): _row,
    ("", "DequantizeLinear"): _activation,
    (MICROSOFT, "MatMulNBits"): _blocks,
    (MICROSOFT, "GatherBlockQuantized"): _block_rows,
}
