"""Makes a graph for MLX of an ONNX graph: weights in MLX's order of axes, in half precision, or quantized."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx_ir as ir

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.modules.opset import modern
from openglm.model.sources import onnx_file
from openglm.runtimes.engine import Source
from openglm.runtimes.mlx_graph.graph import Graph, Node
from openglm.runtimes.mlx_graph.operators import OPERATORS

BITS: dict[Precision, int] = {"int8": 8, "int4": 4}
GROUPS: dict[Precision, tuple[int, ...]] = {"int8": (64, 32), "int4": (32,)}
"""Weights of a row that share a scale and a bias; the first that divides the row is taken."""
SMALLEST = 4096
"""Elements below which a weight stays as it is."""
FLOAT, FLOAT16 = int(ir.DataType.FLOAT), int(ir.DataType.FLOAT16)


def convert(source: Source, target: Path, precision: Precision) -> None:
    """Write a graph as MLX computes it; raises `InputError` for an operator, or a form of one, that is not
    known."""
    conversion = _Conversion(modern(onnx_file.read(source.plain)), precision)
    Graph(inputs=source.inputs, outputs=source.outputs, nodes=tuple(conversion.nodes)).write(
        conversion.weights, target
    )


class _Conversion:
    def __init__(self, model: ir.Model, precision: Precision) -> None:
        self._precision = precision
        self._half = precision == "fp16"
        self._constants: dict[str, np.ndarray] = {}
        self._renamed: dict[str, str] = {}
        """Values that others stand for."""
        self._made: dict[tuple[str, str], list[str]] = {}
        """The names of a weight's other forms, by what the form is and the weight's content."""
        self.nodes: list[Node] = []
        self.weights: dict[str, np.ndarray | mx.array] = {}
        for value in model.graph.initializers.values():
            if value.const_value is not None:
                self._constants[str(value.name)] = self._held(value.const_value.numpy())
        if self._half:
            self._halve_inputs(model.graph)
        for node in model.graph:
            self._add(node)
        self._keep_what_is_used({str(value.name) for value in model.graph.outputs})

    def _held(self, array: np.ndarray) -> np.ndarray:
        """A constant in the types that MLX has, floats in half precision where all is."""
        if array.dtype.kind != "f":
            return array
        if not self._half:
            return array.astype(np.float32)
        # -3.4e38, which masks are made of, times zero is zero; minus infinity times zero is no number.
        most = np.finfo(np.float16).max
        near = np.where(np.isfinite(array), np.clip(array, -most, most), array)
        return near.astype(np.float16)

    def _halve_inputs(self, graph: ir.Graph) -> None:
        for value in graph.inputs:
            name = str(value.name)
            if value.dtype == ir.DataType.FLOAT and name not in self._constants:
                self._renamed[name] = f"{name}.half"
                self._put("Cast", [name], [f"{name}.half"], {"to": FLOAT16})

    def _name(self, value: ir.Value | None) -> str | None:
        if value is None or not value.name:
            return None
        return self._renamed.get(value.name, value.name)

    def _constant(self, value: ir.Value | None) -> np.ndarray | None:
        return None if value is None else self._constants.get(str(value.name))

    def _put(self, operator: str, inputs: list[str | None], outputs: list[str], settings: Any = None) -> None:
        self.nodes.append(
            Node(operator=operator, inputs=tuple(inputs), outputs=tuple(outputs), settings=settings or {})
        )

    def _add(self, node: ir.Node) -> None:
        if node.domain not in ("", "ai.onnx"):
            raise _unknown(f"{node.domain}.{node.op_type}")
        if node.op_type == "Constant":
            self._constants[str(node.outputs[0].name)] = self._value_of(node)
            return
        if node.op_type not in OPERATORS or node.op_type.startswith("Small"):
            raise _unknown(node.op_type)
        if node.op_type == "Transpose" and self._turned(node):
            return
        operator, inputs, settings = self._form(node)
        try:
            inspect.signature(OPERATORS[operator]).bind(*inputs, **settings)
        except TypeError as error:
            raise _unknown(f"{operator} in this form") from error
        self._put(operator, inputs, [str(value.name) for value in node.outputs], settings)

    def _value_of(self, node: ir.Node) -> np.ndarray:
        (attribute,) = node.attributes.values()
        tensor = attribute.type == ir.AttributeType.TENSOR
        array = attribute.as_tensor().numpy() if tensor else np.array(attribute.value)
        return self._held(array)

    def _turned(self, node: ir.Node) -> bool:
        """Whether a Transpose was of a weight, which is kept turned then."""
        array = self._constant(node.inputs[0])
        if array is None:
            return False
        perm = node.attributes.get("perm")
        self._constants[str(node.outputs[0].name)] = array.transpose(None if perm is None else perm.value)
        return True

    def _form(self, node: ir.Node) -> tuple[str, list[str | None], dict[str, Any]]:
        """The operator in MLX's form: its name, inputs and settings."""
        inputs = [self._name(value) for value in node.inputs]
        settings: dict[str, Any] = {}
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                inputs.append(f"{node.outputs[0].name}.{name}")
                self._constants[str(inputs[-1])] = self._held(attribute.as_tensor().numpy())
            elif attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise _unknown("an operator that holds graphs")
            else:
                held = attribute.value
                settings[name] = list(held) if isinstance(held, tuple) else held
        if node.op_type == "Cast" and self._half and settings["to"] == FLOAT:
            settings["to"] = FLOAT16
        if node.op_type == "Split":
            settings["outputs"] = len(node.outputs)
        if node.op_type in ("Conv", "ConvTranspose"):
            inputs[1] = self._channels_last(node, settings.get("group", 1))
        if self._precision in BITS and (small := self._small(node, inputs, settings)):
            return small
        return node.op_type, inputs, settings

    def _channels_last(self, node: ir.Node, group: int) -> str:
        """A convolution's weight as MLX has it: (outputs, kernel ..., inputs of a group)."""
        array = self._constant(node.inputs[1])
        if array is None:
            raise _unknown(f"{node.op_type} whose weight is computed")
        if node.op_type == "ConvTranspose":  # (inputs, outputs of a group, kernel ...)
            parts = np.swapaxes(array.reshape(group, -1, *array.shape[1:]), 1, 2)
            array = parts.reshape(-1, *parts.shape[2:])
        (name,) = self._weights("channels last", [np.ascontiguousarray(np.moveaxis(array, 1, -1))])
        return name

    def _small(
        self, node: ir.Node, inputs: list[str | None], settings: dict[str, Any]
    ) -> tuple[str, list[str | None], dict[str, Any]] | None:
        """The operator of a quantized weight that stands for a node; none where its weight stays float."""
        rows = self._rows(node, settings)
        if rows is None or rows.ndim != 2 or rows.dtype != np.float32 or rows.size < SMALLEST:
            return None
        group = next((size for size in GROUPS[self._precision] if rows.shape[1] % size == 0), None)
        if group is None:
            return None
        form = {"bits": BITS[self._precision], "group": group}
        parts = self._weights("quantized", [rows], form)
        if node.op_type == "Gather":
            return "SmallGather", [parts[0], inputs[1], *parts[1:]], form
        product = str(node.outputs[0].name)
        if node.op_type == "Gemm" and len(inputs) > 2:
            self._put("SmallMatMul", [inputs[0], *parts], [f"{product}.product"], form)
            return "Add", [f"{product}.product", inputs[2]], {}
        return "SmallMatMul", [inputs[0], *parts], form

    def _rows(self, node: ir.Node, settings: dict[str, Any]) -> np.ndarray | None:
        """A weight as rows that each give one output, or that are picked; none where that is not so."""
        if node.op_type == "MatMul":
            weight = self._constant(node.inputs[1])
            return None if weight is None else weight.T
        if node.op_type == "Gemm":
            weight = self._constant(node.inputs[1])
            plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0
            if weight is None or not plain or settings.get("transA"):
                return None
            return weight if settings.get("transB") else weight.T
        if node.op_type == "Gather" and not settings.get("axis") and self._constant(node.inputs[1]) is None:
            return self._constant(node.inputs[0])
        return None

    def _weights(
        self, kind: str, arrays: list[np.ndarray], quantized: dict[str, int] | None = None
    ) -> list[str]:
        """The names of a weight's form, kept once however often the weight is used."""
        (array,) = arrays
        content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        key = (f"{kind} {array.shape}", content)
        if key not in self._made:
            held: list[Any] = arrays
            if quantized:
                held = list(mx.quantize(mx.array(array), quantized["group"], quantized["bits"]))
            names = [f"weight.{len(self._made)}.{place}" for place in range(len(held))]
            self.weights |= zip(names, held, strict=True)
            self._made[key] = names
        return self._made[key]

    def _keep_what_is_used(self, needed: set[str]) -> None:
        """Leave out what no output needs."""
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                kept.append(node)
                needed |= {name for name in node.inputs if name is not None}
        self.nodes = kept[::-1]
        every = {**self._constants, **self.weights}
        self.weights = {name: array for name, array in every.items() if name in needed}


def _unknown(what: str) -> InputError:
    return InputError(f"MLX has no counterpart here of {what}.", "Try another engine.")
