"""Whether a package of Core ML is what it was converted from, found without running it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.tensor import TensorSpec, identifier
from openglm.runtimes.buckets import Buckets, graph_name
from openglm.runtimes.coreml import LARGE, MAIN
from openglm.runtimes.engine import Source, reason

if TYPE_CHECKING:
    import onnx_ir as ir

CLOSE: dict[Precision, float] = {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2, "int4": 0.2}
"""How far a weight's norm, and its largest value, may be off, as a share, by what weights are held in."""
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_JOINED = ("BatchNormalization", "Div", "Mul")
"""What the converter multiplies into the weights of the layer before."""
_NUMBERS = {65568: "float32", 65552: "float16", 131104: "int32", 65600: "float64", 131080: "int8"}
"""Core ML's types by their numbers (ArrayFeatureType.ArrayDataType)."""


def check(source: Source, target: Path, precision: Precision) -> None:
    """Read a package again, and compare inputs and outputs by name, type and shape, and the large weights by
    number, norm and largest value, with the graph's; raises `InputError` for the first that differs."""
    from coremltools.models import MLModel

    from openglm.model.sources import onnx_file  # what runs a bundle reads no graph

    try:
        buckets = Buckets.read(target)
        model = MLModel(str(target), skip_model_load=True)
        spec = model.get_spec()
        programs = _programs(model)
    except Exception as error:  # its kinds share no base
        raise _differs(f"it cannot be read again: {reason(error)}") from error
    plain = onnx_file.read(source.plain)
    for place in range(len(buckets.sizes)):
        single = len(buckets.sizes) == 1
        name = MAIN if single else graph_name(place)
        described = spec.description
        if not single:
            described = next((each for each in described.functions if each.name == name), None)
        if described is None or name not in programs:
            raise _differs(f"it has no function {name}")
        _check_ends("input", described.input, source.inputs, buckets.shapes(place))
        _check_ends("output", described.output, source.outputs, {})
        _check_weights(plain, list(_constants(programs[name])), precision)


def _programs(model: Any) -> dict[str, Any]:
    """The package's functions by name, their weights read."""
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = model.get_spec()
    found: dict[str, Any] = load(spec, spec.specificationVersion, model.weights_dir).functions
    return found


def _check_ends(
    kind: str, described: Any, specs: tuple[TensorSpec, ...], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Inputs or outputs; where shapes are not given, sizes that are open may be any."""
    found = {item.name: item.type.multiArrayType for item in described}
    if set(found) != {identifier(spec.name) for spec in specs}:
        raise _differs(f"its {kind}s are {', '.join(sorted(found))}")
    for spec in specs:
        shape = tuple(found[identifier(spec.name)].shape)
        wanted = shapes.get(spec.name, spec.shape)
        same = len(shape) == len(wanted) and all(
            isinstance(want, str) or want == have for want, have in zip(wanted, shape, strict=True)
        )
        if not same:
            raise _differs(f"its {kind} '{spec.name}' has shape {list(shape)}, not {list(wanted)}")
        number = _NUMBERS.get(found[identifier(spec.name)].dataType, "unknown")
        if (number[0] == "f") != (spec.dtype[0] == "f"):
            raise _differs(f"its {kind} '{spec.name}' is {number}, not {spec.dtype}")


def _constants(function: Any) -> Iterator[np.ndarray]:
    """A function's weights as floats, those in integers by what they stand for."""
    for operation in function.operations:
        for output in operation.outputs:
            if operation.op_type.startswith("constexpr_"):
                yield np.asarray(operation.materialized_val_inference(), np.float32)
            elif operation.op_type == "const" and np.asarray(output.val).dtype.kind == "f":
                yield np.asarray(output.val, np.float32)


def _check_weights(plain: ir.Model, found: list[np.ndarray], precision: Precision) -> None:
    """Whether each large weight of a layer is there, in whatever order of axes."""
    close = CLOSE[precision]
    known: dict[int, list[np.ndarray]] = {}
    for array in found:
        if array.size >= LARGE:
            known.setdefault(array.size, []).append(_measures(array))
    for node in plain.graph.all_nodes():
        weight = node.inputs[1] if node.op_type in _WEIGHTED else None
        held = None if weight is None else weight.const_value
        if weight is None or held is None or held.size < LARGE:
            continue
        if any(use.node.op_type in _JOINED for use in node.outputs[0].uses()):
            continue
        wanted = _measures(held.numpy())
        if not any(np.allclose(wanted, other, rtol=close) for other in known.get(held.size, [])):
            raise _differs(f"the weight '{weight.name}' is not in it, or is another")


def _measures(array: np.ndarray) -> np.ndarray:
    """The norm and the largest value."""
    return np.array([np.linalg.norm(array.astype(np.float64)), np.abs(array).max()])


def _differs(what: str) -> InputError:
    return InputError(f"The package of Core ML is not the graph: {what}.", "Try another precision or engine.")
