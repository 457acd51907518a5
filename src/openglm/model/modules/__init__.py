"""ONNX graphs as PyTorch modules, so that what came as a file is pruned and trained as any other."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from openglm.model.model import Trainable
from openglm.model.tensor import specs

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

KNOWN = frozenset({
    "Abs", "Add", "And", "ArgMax", "ArgMin", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil",
    "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "CumSum",
    "DepthToSpace", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "IsNaN",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool",
    "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "Range", "Reciprocal",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Resize", "Round", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Softplus",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where",
})  # fmt: skip
"""The operators that have a counterpart: known without PyTorch, which takes seconds to import."""

TOKENS = 16
"""A length that every encoder takes."""


def trainable(graph: ir.Model) -> Trainable | None:
    """The PyTorch side of a graph; none without PyTorch, or for operators that have no counterpart.

    Loading it raises `InputError` where a node has a form that is not known, or where module and graph
    give different answers.
    """
    nodes = list(graph.graph)
    known = all(node.domain in ("", "ai.onnx") and node.op_type in KNOWN for node in nodes)
    if not known or not all(map(_installed, ("torch", "onnxscript"))):
        return None
    return Trainable(lambda: _checked(graph), lambda module: _exported(module, graph), converted=True)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def _example(graph: ir.Model) -> dict[str, Any]:
    """Tensors for the graph's inputs: floats at random, and ones, which every vocabulary and mask has."""
    import torch

    from openglm.model.analysis.shapes import resolve

    inputs = specs(graph.graph.inputs)
    tokens = {size for spec in inputs if spec.dtype.startswith("int") for size in spec.shape}
    sizes = {
        name: min(size, TOKENS) if name in tokens else size for name, size in resolve(graph).dims.items()
    }
    found = {}
    for spec in inputs:
        # torch.export takes a batch of one as fixed.
        shape = [
            size if isinstance(size, int) else sizes[size] if axis else 2
            for axis, size in enumerate(spec.shape)
        ]
        kind = getattr(torch, spec.dtype)
        random = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found[spec.name] = random.to(kind) if kind.is_floating_point else torch.ones(shape, dtype=kind)
    return found


def _checked(graph: ir.Model) -> nn.Module:
    import torch

    from openglm.errors import InputError
    from openglm.model.modules.graph_module import of_graph
    from openglm.model.sources.module import compare

    if strange := next(
        (spec.name for spec in specs(graph.graph.inputs) if not spec.name.isidentifier()), None
    ):
        raise InputError(f"Python takes no parameter '{strange}'.", "Export the graph's input anew.")
    module = of_graph(graph)
    example = _example(graph)
    with torch.no_grad():
        compare(graph, example, module(**example))
    return module


def _exported(module: nn.Module, graph: ir.Model) -> ir.Model:
    """The graph of a changed module, with the free dimensions that the graph it came from has."""
    import torch

    from openglm.errors import InputError
    from openglm.model.sources.module import export

    free = {size for spec in specs(graph.graph.inputs) for size in spec.shape if isinstance(size, str)}
    dims = {size: torch.export.Dim(size, min=1) for size in free if size.isidentifier()}
    shapes = {
        spec.name: {axis: dims[size] for axis, size in enumerate(spec.shape) if size in dims}
        for spec in specs(graph.graph.inputs)
    }
    names = [str(value.name) for value in graph.graph.outputs]
    example = _example(graph)
    try:
        return export(module, example, dynamic_shapes=shapes, output_names=names)
    except InputError:
        # A size that the network bears only some values of; at least the batch may be of any.
        return export(module, example, output_names=names)
