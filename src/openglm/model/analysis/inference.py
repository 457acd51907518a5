"""Shape inference of one graph whose inputs' shapes are given: the walk behind `shapes.resolve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir

from openglm.model.analysis import contrib

SMALL = 1024
"""Elements up to which a constant's values are followed; shapes, axes and scales are far below it."""

# What ONNX raises for a node that breaks the operator's rules.
_REFUSALS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError)


class TensorInfo(NamedTuple):
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: ir.DataType

    @property
    def elements(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, types of 4 bits packed two to a byte."""
        if self.dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
            return 0
        return -(-int(self.elements * self.dtype.bitwidth) // 8)


class Inference:
    """One walk over a graph and its subgraphs, in order.

    ONNX's own inference gives each node's outputs from its inputs' shapes. Small tensors that are the
    same for every input (the arithmetic on shapes that exporters leave in a graph) are evaluated on
    the way. The shapes of the inputs are put into `of` before the walk.
    """

    def __init__(self, sizes: Mapping[str, int], opsets: dict[str, int]) -> None:
        self.sizes = sizes
        self.opsets = opsets
        self.of: dict[ir.Value, TensorInfo] = {}
        self.known: dict[ir.Value, np.ndarray] = {}
        self.unknown_operators: set[str] = set()

    def graph(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            self._constant(value, value.const_value)
        for node in graph:
            self._node(node)

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        if tensor is None:
            return
        info = TensorInfo(tuple(int(size) for size in tensor.shape.numpy()), tensor.dtype)
        self.of[value] = info
        # An external tensor may not lie beside the graph; exporters keep what shapes are made of inside.
        if info.elements <= SMALL and not isinstance(tensor, ir.ExternalTensor):
            self.known[value] = tensor.numpy()

    def _node(self, node: ir.Node) -> None:
        if node.op_type == "Constant" and _standard(node):
            self._constant(node.outputs[0], _constant_tensor(node))
        elif node.op_type in ("If", "Loop", "Scan") and _standard(node):
            self._control_flow(node)
        else:
            for output, info in zip(node.outputs, self._infer(node), strict=True):
                if info := info or self._declared(output):
                    self.of[output] = info
            for output, array in zip(node.outputs, self._evaluate(node), strict=False):
                self.of[output] = TensorInfo(array.shape, ir.DataType.from_numpy(array.dtype))
                self.known[output] = array

    def _declared(self, value: ir.Value) -> TensorInfo | None:
        """What the file itself says of a value, where its dimensions are sizes or those of the inputs."""
        if value.shape is None or value.dtype is None:
            return None
        sizes = [dim if isinstance(dim, int) else self.sizes.get(str(dim.value)) for dim in value.shape]
        known = tuple(size for size in sizes if size is not None)
        return TensorInfo(known, value.dtype) if len(known) == len(sizes) else None

    def _infer(self, node: ir.Node) -> list[TensorInfo | None]:
        inputs = [None if value is None else self.of.get(value) for value in node.inputs]
        nothing: list[TensorInfo | None] = [None] * len(node.outputs)
        if rule := contrib.RULES.get((node.domain, node.op_type)):
            try:
                found = [None if made is None else TensorInfo(*made) for made in rule(node, inputs)]
            except (AttributeError, IndexError, TypeError, ValueError):  # an input it needs is unknown
                return nothing
            return (found + nothing)[: len(nothing)]
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset(node), _domain(node))
        except onnx.defs.SchemaError:
            self.unknown_operators.add(f"{node.domain or 'ai.onnx'}::{node.op_type}")
            return nothing
        types, data = {}, {}
        for index, (value, info) in enumerate(zip(node.inputs, inputs, strict=True)):
            if value is None or info is None:
                continue
            types[f"i{index}"] = onnx.helper.make_tensor_type_proto(info.dtype.value, info.shape)
            if value in self.known:
                data[f"i{index}"] = onnx.numpy_helper.from_array(self.known[value])
        imports = [onnx.helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        try:
            made = onnx.shape_inference.infer_node_outputs(
                schema, _proto(node), types, data, opset_imports=imports
            )
        except (*_REFUSALS, RuntimeError, ValueError, KeyError):
            return nothing
        return [_info(made.get(f"o{index}")) for index in range(len(node.outputs))]

    def _opset(self, node: ir.Node) -> int:
        newest = onnx.defs.onnx_opset_version() if _standard(node) else 1
        return self.opsets.get(node.domain, newest)

    def _evaluate(self, node: ir.Node) -> list[np.ndarray]:
        """The outputs of a node, where all that it reads is known and they are small; else nothing."""
        if node.op_type in ("Shape", "Size") and _standard(node):
            info = None if node.inputs[0] is None else self.of.get(node.inputs[0])
            if info is None:
                return []
            start, end = _int(node, "start", 0), _int(node, "end", None)
            return [np.array(info.shape[start:end] if node.op_type == "Shape" else info.elements, np.int64)]
        values = [value for value in node.inputs if value is not None]
        if not _standard(node) or not values or any(value not in self.known for value in values):
            return []
        # An Expand of a constant can be large: its shape is enough.
        if any(self.of[output].elements > SMALL for output in node.outputs if output in self.of):
            return []
        from onnx.reference import ReferenceEvaluator  # a tenth of a second, which static graphs need not pay

        proto = _proto(node)
        feeds = {f"i{i}": self.known[v] for i, v in enumerate(node.inputs) if v is not None}
        infos = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
        outs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output]
        graph = onnx.helper.make_graph([proto], "node", infos, outs)
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(graph, opsets={"": self._opset(node)})
                made = [np.asarray(array) for array in evaluator.run(None, feeds)]
        except Exception:  # the reference operators raise anything; the inferred shape stands
            return []
        small = all(array.size <= SMALL and array.dtype.kind in "iufb" for array in made)
        return made if small else []

    def _control_flow(self, node: ir.Node) -> None:
        """Walk the subgraphs of If, Loop and Scan; a branch's larger result is taken as the node's."""
        made: list[list[TensorInfo | None]] = []
        trips = trip_count(node, self.of, self.known)
        for body in subgraphs(node):
            if node.op_type != "If":
                self._bind(node, body)
            self.graph(body)
            infos = [self.of.get(output) for output in body.outputs]
            if node.op_type == "Loop":
                infos = infos[1:]
            if node.op_type != "If":
                states = _state_count(node)
                stacked = [
                    TensorInfo((trips, *info.shape), info.dtype) if info and trips is not None else None
                    for info in infos[states:]
                ]
                infos = infos[:states] + stacked
            made.append(infos)
        for output, *infos in zip(node.outputs, *made, strict=False):
            found = [info for info in infos or [self._declared(output)] if info is not None]
            if found:
                self.of[output] = max(found, key=lambda info: info.elements)

    def _bind(self, node: ir.Node, body: ir.Graph) -> None:
        """Give the inputs of a loop's body the types that they have on the first round."""
        given = [None if value is None else self.of.get(value) for value in node.inputs]
        if node.op_type == "Loop":
            given = [TensorInfo((), ir.DataType.INT64), TensorInfo((), ir.DataType.BOOL), *given[2:]]
        else:
            states = _state_count(node)
            given = given[:states] + [
                info and TensorInfo(info.shape[1:], info.dtype) for info in given[states:]
            ]
        self.of.update({value: info for value, info in zip(body.inputs, given, strict=False) if info})


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs among a node's attributes."""
    return [attr.as_graph() for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]


def trip_count(
    node: ir.Node, of: Mapping[ir.Value, TensorInfo], known: Mapping[ir.Value, np.ndarray]
) -> int | None:
    """How often a Loop or Scan runs its body, where that is fixed; None where data decides."""
    if node.op_type == "Loop" and node.inputs[0] is not None:
        count = known.get(node.inputs[0])
        return None if count is None else int(count.reshape(-1)[0])
    if node.op_type == "Scan" and node.inputs[-1] is not None and node.inputs[-1] in of:
        return of[node.inputs[-1]].shape[0]
    return None


def _state_count(node: ir.Node) -> int:
    """How many values a loop hands from one round to the next."""
    if node.op_type == "Loop":
        return len(node.inputs) - 2
    return len(node.inputs) - (_int(node, "num_scan_inputs", 0) or 0)


def _standard(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx")


def _domain(node: ir.Node) -> str:
    return "" if _standard(node) else node.domain


def _int(node: ir.Node, name: str, default: int | None) -> int | None:
    return node.attributes[name].as_int() if name in node.attributes else default


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node, whichever attribute holds it."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.TENSOR:
            return attr.as_tensor()
        if attr.type in (ir.AttributeType.INT, ir.AttributeType.INTS):
            return ir.tensor(np.array(attr.value, np.int64))
        if attr.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
            return ir.tensor(np.array(attr.value, np.float32))
    return None


def _proto(node: ir.Node) -> onnx.NodeProto:
    """The node alone, its values renamed i0, i1, ... and o0, o1, ..., without metadata."""
    proto = onnx.NodeProto(op_type=node.op_type, domain=_domain(node))
    proto.input.extend("" if value is None else f"i{index}" for index, value in enumerate(node.inputs))
    proto.output.extend(f"o{index}" if value.name else "" for index, value in enumerate(node.outputs))
    proto.attribute.extend(ir.to_proto(attr) for attr in node.attributes.values())
    return proto


def _info(proto: Any) -> TensorInfo | None:
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") for dim in dims):
        return None
    return TensorInfo(tuple(dim.dim_value for dim in dims), ir.DataType(proto.tensor_type.elem_type))
