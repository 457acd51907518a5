"""PyTorch modules: exporting one to ONNX, and proving at once that the graph computes the same."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from openglm.errors import InputError, MissingExtraError
from openglm.model.extra_outputs import NAMED
from openglm.model.model import Model, Trainable

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference between module and graph, relative to the largest output, taken as rounding."""


def wrap(
    module: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any],
    *,
    name: str | None = None,
    task: str = "generic",
    processor: Any = None,
    dynamic_shapes: Any = None,
) -> Model:
    """See `AutoModel.wrap`."""
    torch = require_torch()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"A {type(module).__name__} is not an nn.Module.", "Give an nn.Module.")
    example = bind(module, example_inputs)

    def graph_of(any_module: Any) -> ir.Model:
        return export(any_module, example, dynamic_shapes=dynamic_shapes)

    def changed(any_module: Any) -> ir.Model:
        return _name_outputs(graph_of(any_module), [output.name for output in model.outputs])

    model = Model(
        name=name or type(module).__name__.lower(),
        source=f"{type(module).__module__}.{type(module).__qualname__}",
        task=task,
        export=lambda: graph_of(module),
        processor=processor,
        trainable=Trainable(lambda: module.eval(), changed),
    )
    return model


def require_torch() -> Any:
    """The torch module, or `MissingExtraError`."""
    try:
        import onnxscript  # noqa: F401  # what torch.onnx exports with
        import torch
    except ImportError as error:
        raise MissingExtraError("PyTorch, which exports the model,", "torch") from error
    return torch


def bind(module: Any, example_inputs: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Example tensors by the name of the parameter of `module.forward` that each is for."""
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    try:
        bound = inspect.signature(module.forward).bind(*example_inputs)
    except TypeError as error:
        raise InputError(
            f"The example inputs do not fit {type(module).__name__}.forward: {error}.",
            "Give one tensor for each parameter.",
        ) from error
    flat: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        if isinstance(value, tuple):  # forward(*tensors)
            flat |= {f"{key}_{index}": item for index, item in enumerate(value)}
        else:
            flat[key] = value
    return flat


def export(
    module: Any,
    example: Mapping[str, Any],
    *,
    dynamic_shapes: Any = None,
    output_names: Sequence[str] | None = None,
) -> ir.Model:
    """The module as an ONNX graph (opset 20), compared with the module on the example.

    `example` maps names of `forward`'s parameters to tensors. Outputs that a module has beside its own
    are called as its attribute `extra_outputs` says, which come last. Without `dynamic_shapes` the first
    dimension of every tensor is a batch of any size; a module that cannot bear that is exported
    for the example's batch only. Raises `InputError` where it cannot be exported or the graph's
    outputs differ.
    """
    torch = require_torch()
    module = module.eval()
    batched = _two_rows(torch, example) if dynamic_shapes is None else dict(example)
    batch = torch.export.Dim("batch", min=1)
    shapes = dynamic_shapes or {
        key: {0: batch} if isinstance(value, torch.Tensor) and value.dim() else None
        for key, value in batched.items()
    }
    extra = tuple(getattr(module, "extra_outputs", ()))
    attempts = [(batched, shapes)] + ([(dict(example), None)] if dynamic_shapes is None else [])
    failure: Exception | None = None
    for inputs, dynamic in attempts:
        try:
            with quiet(), torch.no_grad():
                program = torch.onnx.export(
                    module,
                    kwargs=inputs,
                    dynamo=True,
                    opset_version=OPSET,
                    dynamic_shapes=dynamic,
                    output_names=None if output_names is None else [*output_names, *extra],
                    verbose=False,
                )
                graph: ir.Model = program.model
                expected = module(**inputs)
            if extra:
                own = [output.name for output in graph.graph.outputs[: -len(extra)]]
                _name_outputs(graph, [*own, *extra])
            compare(graph, inputs, expected)
            strip(graph)
            if extra:
                graph.metadata_props[NAMED] = json.dumps(extra)
            return graph
        except InputError:
            raise
        except Exception as error:  # torch.export raises many kinds
            failure = failure or error
    raise InputError(
        f"{type(module).__name__} cannot be exported ({first_line(failure)}).",
        "Control flow that depends on data does not export; --debug shows where it is.",
    ) from failure


def first_line(error: BaseException | None) -> str:
    """What an error of another package says at its root, short enough for a sentence."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


_SHAPES = "torch.fx.experimental.symbolic_shapes"
_SCOPES = "pkg.torch.onnx.name_scopes"


def strip(graph: ir.Model) -> None:
    """Drop what the exporter noted about the machine it ran on; where in the module a node is, stays."""
    for holder in (graph, graph.graph):
        holder.metadata_props.clear()
    for node in graph.graph.all_nodes():
        scopes = node.metadata_props.get(_SCOPES)
        node.metadata_props.clear()
        if scopes is not None:
            node.metadata_props[_SCOPES] = scopes


def _name_outputs(graph: ir.Model, names: Sequence[str | None]) -> ir.Model:
    """The graph, its outputs under these names; the exporter's own count the layers before them."""
    for output, name in zip(graph.graph.outputs, names, strict=False):
        output.name = name
    NameFixPass()(graph)  # what had such a name inside the graph gets another
    return graph


def _two_rows(torch: Any, example: Mapping[str, Any]) -> dict[str, Any]:
    # torch.export takes a dimension of size 1 as fixed, so a batch of one is doubled.
    return {
        key: torch.cat([value, value])
        if isinstance(value, torch.Tensor) and value.dim() and len(value) == 1
        else value
        for key, value in example.items()
    }


def compare(graph: ir.Model, inputs: Mapping[str, Any], expected: Any) -> None:
    """Raise `InputError` where a graph does not give what a module gave for these tensors."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), options)
    names = [item.name for item in session.get_inputs()]
    tensors = [value for value in inputs.values() if isinstance(value, torch.Tensor)]
    feeds = {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
    found = session.run(None, feeds)
    flat = torch.utils._pytree.tree_leaves(expected)
    truths = [theirs.detach().numpy() for theirs in flat if isinstance(theirs, torch.Tensor)]
    for index, (ours, truth) in enumerate(zip(found, truths, strict=False)):
        same = ours.shape == truth.shape
        worst = float("inf")
        if same and truth.dtype.kind not in "fc":
            same = np.array_equal(ours, truth)
        elif same:
            scale = float(np.abs(truth[np.isfinite(truth)]).max(initial=1.0))
            # The same NaN or infinity on both sides is no difference.
            alike = (ours == truth) | (np.isnan(ours) & np.isnan(truth))
            worst = float(np.where(alike, 0.0, np.abs(ours - truth)).max(initial=0.0))
            same = worst <= TOLERANCE * scale
        if not same:
            raise InputError(
                f"The graph's output {index} differs from the module's by {worst:.2g}.",
                "Report the model: it is converted wrongly.",
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's own remarks (missing torchvision, renamed dimensions) off the terminal."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", _SHAPES, "onnxscript", "transformers")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # torch.export prints the graph that it got so far to the stream itself where it fails.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
