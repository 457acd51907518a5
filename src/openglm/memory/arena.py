"""Runs a graph inside one arena by its plan, and catches a plan that is wrong.

Every tensor that the plan places lies in one block of bytes, at its offset, from the step that makes it on;
operators read views of the block and what they give is written there. Each is computed by itself, by ONNX's
reference evaluator or, where it is an operator of ONNX Runtime's own, by that. So this proves plans and is no
engine: it is slow, and an operator's own temporary arrays lie elsewhere. Three things are checked at every
step: that what is read is what was written (a checksum of each tensor), that the guard bytes behind all
living tensors are whole, and that an operator gives the shape and type that was planned.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from openglm.errors import InputError, VerificationError
from openglm.memory.lifetime import Lifetime, reads
from openglm.memory.plan import Placement, Plan, place, step_name
from openglm.model.analysis.inference import TensorInfo, subgraphs
from openglm.model.analysis.shapes import Shapes

GUARD = 0xA5
"""What guard bytes hold."""
CACHE_LINE = 64
_WRONG = "Do not use this plan; report it with the model."


Compute = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


class _Step(NamedTuple):
    name: str
    compute: Compute
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Arena:
    """A graph, its constants, and one block of memory of the plan's size."""

    def __init__(self, model: ir.Model, shapes: Shapes, plan: Plan) -> None:
        """`shapes` is `resolve`'s of `model`, with the sizes that were planned.

        Raises `InputError` for an operator that the reference evaluator does not have, and for tensors of
        fewer than 8 bits or of text, which have no place of their own in numpy.
        """
        self.plan, self.shapes = plan, shapes
        self.memory = np.zeros(plan.arena_bytes, np.uint8)
        self.places: dict[str, tuple[Placement, ...]] = {}
        for placement in plan.placements:
            for value in placement.values:
                self.places[value] = (*self.places.get(value, ()), placement)
        self.infos = shapes.by_name
        self.inputs = [value.name or "" for value in shapes.graph.inputs if not value.is_initializer()]
        self.outputs = [value.name or "" for value in shapes.graph.outputs]
        self.constants = {
            value.name or "": value.const_value.numpy()
            for value in shapes.graph.initializers.values()
            if value.const_value is not None
        }
        for name in self.places:
            bits = self.infos[name].dtype.bitwidth
            if bits % 8 or self.infos[name].dtype in (ir.DataType.STRING, ir.DataType.BFLOAT16):
                raise InputError(
                    f"The tensor '{name}' is {self.infos[name].dtype.name}, which cannot be run here.",
                    "The plan holds; it cannot be proven by running it.",
                )
        nodes = {step_name(node): node for node in shapes.graph}
        self.steps = [_compiled(nodes[name], dict(model.opset_imports), self.infos) for name in plan.steps]
        self.frames = 0
        self._sums: dict[str, int] = {}
        self._guarded: dict[str, Placement] = {}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for one frame, copied out of the arena, in the order of the graph.

        Raises `VerificationError` where the plan is caught to be wrong.
        """
        last = {name: (self._view(name), self._sums[name]) for name in self.outputs if name in self._sums}
        self.frames += 1
        self._sums, self._guarded = {}, {}
        for name in self.inputs:
            if name not in feeds:
                raise InputError(f"There is no value for the input '{name}'.", "Give one for each input.")
            if name in self.places:
                self._write(name, np.asarray(feeds[name]), "the inputs")
        values: dict[str, np.ndarray] = dict(self.constants)
        for number, step in enumerate(self.steps):
            given = {
                name: self._read(name, step.name) if name in self.places else values[name]
                for name in step.inputs
            }
            made = step.compute(given)
            for name, array in zip(step.outputs, made, strict=True):
                if name in self.places:
                    self._write(name, array, step.name)
                else:
                    values[name] = array
            self._check_guards(number, step.name)
        if self.plan.double_buffer:
            for name in self.inputs:  # the next frame comes while this one is computed
                self._view(name, 1)[...] = 0
            for name, (view, was) in last.items():
                if zlib.crc32(view.tobytes()) != was:
                    raise VerificationError(
                        f"The plan is wrong: the last frame's '{name}' was written over.", _WRONG
                    )
        return {
            name: (self._read(name, "the end") if name in self.places else values[name]).copy()
            for name in self.outputs
        }

    def apart(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a frame like the last one where every tensor has memory of its own: bit for bit what
        `run` gives, if the plan is right."""
        values = dict(self.constants)
        values.update((name, self._own(name, feeds[name])) for name in self.inputs)
        for step in self.steps:
            made = step.compute({name: values[name] for name in step.inputs})
            values.update(
                (name, self._own(name, array)) for name, array in zip(step.outputs, made, strict=True)
            )
        return {name: values[name] for name in self.outputs}

    def _own(self, name: str, array: np.ndarray) -> np.ndarray:
        """A copy that is aligned as in the arena: the order of sums in vector code depends on it."""
        if name not in self.places:
            return array
        place = self._view(name).ctypes.data % CACHE_LINE
        block = np.empty(array.nbytes + 2 * CACHE_LINE, np.uint8)
        start = -block.ctypes.data % CACHE_LINE + place
        copy = block[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def _placement(self, name: str, ahead: int = 0) -> Placement:
        """Where a tensor lies in this frame: frames take turns where there are two places."""
        places = self.places[name]
        return places[(self.frames + ahead) % len(places)]

    def _view(self, name: str, ahead: int = 0) -> np.ndarray:
        info, place = self.infos[name], self._placement(name, ahead)
        part = self.memory[place.offset : place.offset + info.nbytes]
        return part.view(info.dtype.numpy()).reshape(info.shape)

    def _write(self, name: str, array: np.ndarray, step: str) -> None:
        info, place = self.infos[name], self._placement(name)
        if array.shape != info.shape or array.dtype != info.dtype.numpy():
            raise VerificationError(
                f"'{name}' is {array.dtype}{list(array.shape)} at {step}, and {_written(info)} was planned.",
                "Plan with the sizes that the inputs have.",
            )
        self._view(name)[...] = array
        end = place.offset + place.nbytes
        self.memory[end : self._end(place)] = GUARD
        self._guarded[place.name] = place
        self._sums[name] = zlib.crc32(self._view(name).tobytes())

    def _read(self, name: str, step: str) -> np.ndarray:
        view = self._view(name)
        if zlib.crc32(view.tobytes()) != self._sums.get(name):
            raise VerificationError(
                f"The plan is wrong: '{name}' was written over before {step} read it.", _WRONG
            )
        view.flags.writeable = False
        return view

    def _end(self, place: Placement) -> int:
        size = place.nbytes + self.plan.guard
        return place.offset + -(-size // self.plan.alignment) * self.plan.alignment

    def _check_guards(self, number: int, step: str) -> None:
        for placement in self._guarded.values():
            if placement.last < number:
                continue
            guards = self.memory[placement.offset + placement.nbytes : self._end(placement)]
            if not (guards == GUARD).all():
                raise VerificationError(
                    f"The plan is wrong: {step} wrote over the guard bytes behind '{placement.name}'.", _WRONG
                )


def guarded(plan: Plan, guard: int = 64) -> Plan:
    """The same tensors in the same order, planned anew with guard bytes behind each."""
    tensors = [Lifetime(p.name, p.first, p.last, p.nbytes, p.values) for p in plan.placements]
    again = place(plan.name, tensors, plan.steps, align=plan.alignment, guard=guard, seconds=0.0)
    return again.model_copy(update={"in_place": plan.in_place, "double_buffer": plan.double_buffer})


def _written(info: TensorInfo) -> str:
    return f"{info.dtype.numpy()}{list(info.shape)}"


def _compiled(node: ir.Node, opsets: dict[str, int], infos: Mapping[str, TensorInfo]) -> _Step:
    """A step that runs one node: by the reference evaluator, or by ONNX Runtime where it is of another domain
    than ONNX's."""
    inner = {
        value.name
        for body in subgraphs(node)
        for value in (
            *body.inputs,
            *body.initializers.values(),
            *(made for each in body.all_nodes() for made in each.outputs),
        )
    }
    inputs = tuple(dict.fromkeys(v.name for v in reads(node) if v.name and v.name not in inner))
    outputs = tuple(value.name for value in node.outputs if value.name)
    sides = [[_typed(name, infos.get(name)) for name in side] for side in (inputs, outputs)]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "step", *sides)
    try:
        run = _reference(graph, opsets) if node.domain in ("", "ai.onnx") else _engine(graph, opsets)
    except Exception as error:  # both raise what they like for an operator that they do not have
        raise InputError(
            f"There is nothing here that runs {node.domain or 'ai.onnx'}::{node.op_type}.",
            "The plan holds; it cannot be proven by running it.",
        ) from error
    return _Step(f"'{step_name(node)}' ({node.op_type})", run, inputs, outputs)


def _typed(name: str, info: TensorInfo | None) -> onnx.ValueInfoProto:
    if info is None:
        return onnx.helper.make_empty_tensor_value_info(name)
    return onnx.helper.make_tensor_value_info(name, info.dtype.value, info.shape)


def _reference(graph: onnx.GraphProto, opsets: dict[str, int]) -> Compute:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(graph, opsets=opsets)
    return lambda feeds: [np.asarray(array) for array in evaluator.run(None, dict(feeds))]


def _engine(graph: onnx.GraphProto, opsets: dict[str, int]) -> Compute:
    import onnxruntime

    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda feeds: list(session.run(None, dict(feeds)))
