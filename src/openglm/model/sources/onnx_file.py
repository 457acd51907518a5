"""ONNX files: reading with checks, writing, and what a graph takes and returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from openglm.errors import InputError
from openglm.model.model import Model
from openglm.model.modules import trainable
from openglm.model.tensor import TensorSpec, specs

if TYPE_CHECKING:
    from openglm.model.processors.processor import Processor

SUFFIX = ".onnx"


def matches(source: str) -> bool:
    """Whether `source` names an ONNX file."""
    return source.lower().endswith(SUFFIX)


def load(source: str) -> Model:
    """The model in an `.onnx` file; raises `InputError` where it is not a whole, readable one.

    A tokenizer.json or preprocessor_config.json beside it, as exporters put them, makes its inputs
    from text or pictures.
    """
    path = Path(source)
    graph = read(path)
    processor = _processor_beside(path.parent, specs(graph.graph.inputs))
    return Model(
        path.stem, source, _task(graph),
        export=lambda: graph, processor=processor, trainable=trainable(graph),
    )  # fmt: skip


def _processor_beside(folder: Path, inputs: tuple[TensorSpec, ...]) -> Processor | None:
    tokens = next((spec.shape for spec in inputs if spec.name == "input_ids"), None)
    if tokens is not None and (folder / "tokenizer.json").is_file():
        from openglm.model.processors.text_processor import TextProcessor

        fixed = tokens[1] if len(tokens) == 2 and isinstance(tokens[1], int) else None
        return TextProcessor.from_folder(folder, tuple(spec.name for spec in inputs), pad_to=fixed)
    if len(inputs) == 1 and len(inputs[0].shape) == 4 and (folder / "preprocessor_config.json").is_file():
        from openglm.model.processors.image_processor import ImageProcessor

        layout: Literal["NCHW", "NHWC"] = "NHWC" if inputs[0].shape[3] == 3 else "NCHW"
        return ImageProcessor.from_folder(folder, inputs[0].name, layout)
    return None


def read(path: Path) -> ir.Model:
    """Read and check an ONNX file; tensors in other files stay there until they are used.

    Raises `InputError` for a file that is missing, truncated, not ONNX, or whose external data
    is missing, too short, or outside the model's folder.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Check the path.")
    try:
        model = ir.load(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", "Check the file.") from error
    except Exception as error:  # protobuf and onnx_ir raise many kinds for a broken file
        raise InputError(
            f"{path} is not a whole ONNX file ({_innermost(error)}).", "Export or copy it again."
        ) from error
    if not model.graph.outputs:
        raise InputError(f"{path} is not a whole ONNX file: it holds no graph.", "Export or copy it again.")
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(path, tensor)
        elif tensor.dtype != ir.DataType.STRING and not _is_whole(tensor):
            raise InputError(
                f"The tensor '{tensor.name}' of {path} has not as many values as its shape says.",
                "Export or copy the model again.",
            )
    return model


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor of a model: weights, constants, and those in subgraphs and functions."""
    graphs = [model.graph]
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for holder in holders:
        for node in holder.all_nodes():
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    graphs.append(attribute.as_graph())
                elif attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
    for graph in graphs:
        yield from (
            value.const_value for value in graph.initializers.values() if value.const_value is not None
        )


def _is_whole(tensor: ir.TensorProtocol) -> bool:
    try:
        return len(tensor.tobytes()) == tensor.nbytes
    except (ValueError, TypeError):
        return False


def _check_external(path: Path, tensor: ir.ExternalTensor) -> None:
    data = Path(tensor.path)
    if not data.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(
            f"{path} keeps the tensor '{tensor.name}' in {tensor.location}, outside its own folder.",
            "Save the model with its data beside it.",
        )
    end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
    if not data.is_file() or data.stat().st_size < end:
        state = "shorter than the model says" if data.is_file() else "missing"
        raise InputError(
            f"The external data file {data.name} of {path} is {state}.",
            "Put the whole file beside the model, under that name.",
        )


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:150]


def _task(graph: ir.Model) -> str:
    """What an unlabelled graph most likely does, by the names that exporters use."""
    outputs = {value.name for value in graph.graph.outputs}
    inputs = {value.name for value in graph.graph.inputs}
    if "sentence_embedding" in outputs:
        return "embedding"
    if "pixel_values" in inputs and "logits" in outputs:
        return "image-classification"
    if "logits" in outputs and "input_ids" in inputs:
        rank = next(len(value.shape or ()) for value in graph.graph.outputs if value.name == "logits")
        return "classification" if rank == 2 else "text-generation" if rank == 3 else "generic"
    return "generic"


def check_finite(model: ir.Model) -> None:
    """Raise `InputError` where a weight is NaN or infinite: nothing computed from it would mean anything."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        # Masks are built from single infinities; a weight has more than a few elements.
        if tensor is None or not tensor.dtype.is_floating_point() or tensor.size < 8:
            continue
        array = tensor.numpy()
        bad = int(array.size - np.isfinite(array.astype(np.float32, copy=False)).sum())
        if bad:
            raise InputError(
                f"The weight '{value.name}' holds {bad} values that are NaN or infinite.",
                "Train or export the model again.",
            )


_LARGEST = 1_900_000_000
"""Bytes that go into one file; protobuf's limit is 2 GB."""
_MAPPED = 1_000_000
"""Bytes of weights from which a file of their own pays."""


def data_file(path: Path) -> Path:
    """Where the weights of a graph are that are not in its own file."""
    return path.with_name(f"{path.name}.data")


def write(model: ir.Model, path: Path, *, mapped: bool = False) -> None:
    """Write a graph as one file, or with its weights in a file beside it, `data_file`, where it is too large
    for one or, if `mapped`, where it is not small.

    An engine maps a file of weights into memory instead of copying them out of the graph.
    """
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value]
    most = _MAPPED if mapped else _LARGEST
    if sum(tensor.nbytes for tensor in tensors) > most:
        ir.save(model, path, external_data=data_file(path).name)
        return
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
        # They name a file beside the one they were read from.
        model = ir.external_data.load_to_model(model.clone())
    ir.save(model, path)
