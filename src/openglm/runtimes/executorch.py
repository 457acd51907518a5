"""ExecuTorch with XNNPACK: PyTorch's engine for phones. Graphs have fixed sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from openglm.bundle.manifest import Precision
from openglm.errors import InputError
from openglm.model.tensor import identifier
from openglm.runtimes.buckets import Batch, BucketRunner, Buckets, beside, graph_name
from openglm.runtimes.engine import Engine, Source, reason

_GROUP = 32
"""Inputs that share a scale, of weights of 4 bits."""


class ExecuTorch(Engine):
    """A .pte file with a method for each size, which share their weights, and the sizes beside it.

    Convolutions of a statically quantized graph compute in its own integers; others stay float. With
    integer weights linear layers quantize activations as they come.
    """

    name: ClassVar[str] = "executorch"
    title: ClassVar[str] = "ExecuTorch"
    package: ClassVar[str] = "executorch"
    converters: ClassVar[tuple[str, ...]] = ("torch", "torchao")
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8", "int4")
    suffix: ClassVar[str] = ".pte"

    def processors(self) -> tuple[str, ...]:
        from executorch.runtime import Runtime

        names = Runtime.get().backend_registry.registered_backend_names
        return tuple(name.removesuffix("Backend") for name in names)

    def convert(self, source: Source, target: Path, precision: Precision) -> None:
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from openglm.model.modules.graph_module import of_graph
        from openglm.model.modules.integers import of_static
        from openglm.model.sources import onnx_file

        buckets = Buckets.of(source.inputs, source.outputs, source.sizes)
        static = precision == "int8" and source.static
        graph = onnx_file.read(source.graph if static else source.plain)
        module: Any = of_static(graph, named=True, folded=True) if static else of_graph(graph, named=True)
        methods = {}
        try:
            if static or precision == "int4":
                _quantize(module, precision)
            for place in range(len(buckets.sizes)):
                example = tuple(buckets.example(place).values())
                exported = torch.export.export(module, example)
                if precision == "int8" and not static:
                    exported = torch.export.export(_quantized(exported.module(), example), example)
                methods[graph_name(place)] = exported
            lowered = to_edge_transform_and_lower(methods, partitioner=[XnnpackPartitioner()])
            target.write_bytes(lowered.to_executorch().buffer)
        except Exception as error:  # its kinds share no base
            problem = f"ExecuTorch cannot convert it: {reason(error)}."
            raise InputError(problem, "Try another engine.") from error
        buckets.write(target)

    def load(self, path: Path, *, threads: int | None = None) -> Runner:
        return Runner(path, threads=threads)

    def files(self, target: Path) -> Sequence[Path]:
        return target, beside(target)

    def placed(self, path: Path) -> Mapping[str, Sequence[str]]:
        from executorch.exir._serialize._program import deserialize_pte_binary

        program = deserialize_pte_binary(path.read_bytes()).program
        plans = program.execution_plan
        delegates = {delegate.id: () for plan in plans for delegate in plan.delegates}
        kernels = {operator.name.partition("::")[2] for plan in plans for operator in plan.operators}
        return {**delegates, "portable kernels": sorted(kernels)}


class Runner(BucketRunner):
    """A model loaded in ExecuTorch, whose threads are one pool for the whole process."""

    title = ExecuTorch.title

    def _open(self, path: Path, threads: int, graphs: int) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)
        self._program = Runtime.get().load_program(path)
        self._methods = [self._program.load_method(graph_name(place)) for place in range(graphs)]

    def _call(self, place: int, arrays: Batch) -> Batch:
        import torch

        given = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays.values()]
        found = self._methods[place].execute(given)
        # Its tensors lie in the engine's own memory, which the next call writes over.
        return {
            identifier(spec.name): np.array(value.numpy())
            for spec, value in zip(self._buckets.outputs, found, strict=True)
        }


def _quantize(module: Any, precision: Precision) -> None:
    """Have integers in linear layers that are float, activations quantized at each call; those of 4 bits have
    a scale for each 32 inputs."""
    import torch
    from torch.nn.utils import parametrize
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    eight = precision == "int8"

    def fits(layer: torch.nn.Module, _: str) -> bool:
        if not isinstance(layer, torch.nn.Linear) or parametrize.is_parametrized(layer):
            return False
        return eight or layer.in_features % _GROUP == 0

    dtype = getattr(torch, precision)
    parts = PerAxis(0) if eight else PerGroup(_GROUP)
    config = Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=parts)
    quantize_(module, config, filter_fn=fits)


def _quantized(module: Any, example: tuple[Any, ...]) -> Any:
    """The module with int8 weights in its linear layers, activations quantized at each call: as `_quantize`,
    in a third of the time, but not of modules that are quantized in part."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    )
    prepared = prepare_pt2e(module, quantizer)
    prepared(*example)
    return convert_pt2e(prepared)
