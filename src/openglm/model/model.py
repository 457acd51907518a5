"""A model as the rest of the package sees it: an ONNX graph, what feeds it, and where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

    from openglm.model.processors.processor import Processor
    from openglm.model.tensor import TensorSpec


@dataclass
class Model:
    """A model from one of the sources that `AutoModel` reads.

    `graph` is made when it is first asked for: a model that came as a PyTorch module is
    exported then.
    """

    name: str
    source: str
    """What the user gave: a zoo name, a hub id, a path."""
    task: str
    """"embedding", "classification", "image-classification", "text-generation" or "generic"."""
    export: Callable[[], ir.Model] = field(repr=False)
    """Makes the graph."""
    processor: Processor | None = None
    """Turns text or images into the graph's inputs; none where only arrays are taken."""
    module: Any = field(default=None, repr=False)
    """The `torch.nn.Module`, where the source is one."""
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    """The architecture's figures as its source states them (a transformers config)."""

    @cached_property
    def graph(self) -> ir.Model:
        """The model as an ONNX graph."""
        return self.export()

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the graph takes, in order."""
        from openglm.model.tensor import specs

        return specs(self.graph.graph.inputs)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph returns, in order."""
        from openglm.model.tensor import specs

        return specs(self.graph.graph.outputs)
