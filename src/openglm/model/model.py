"""A model as the rest of the package sees it: an ONNX graph, what feeds it, and where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from openglm.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import nn

    from openglm.data.dataset import Dataset
    from openglm.model.processors.processor import Processor
    from openglm.model.tensor import TensorSpec


@dataclass(frozen=True)
class Trainable:
    """A model's PyTorch side, where its source has one."""

    load: Callable[[], nn.Module]
    """Gives the module, in evaluation mode, with `forward`'s parameters named as the graph's inputs."""
    export: Callable[[nn.Module], ir.Model]
    """Makes the graph of any module that takes and returns what the loaded one does."""
    converted: bool = False
    """Whether the module was made of a graph."""


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
    trainable: Trainable | None = field(default=None, repr=False)
    """What pruning and training need; none for a graph without its module."""
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    """The architecture's figures as its source states them (a transformers config)."""
    stand_ins: Callable[[], Dataset] | None = field(default=None, repr=False)
    """Samples for where the user gives no data, of a model that wants more than plain text."""

    @cached_property
    def graph(self) -> ir.Model:
        """The model as an ONNX graph."""
        return self.export()

    @cached_property
    def module(self) -> nn.Module:
        """The `torch.nn.Module`; raises `InputError` for a model that came as a graph alone."""
        if self.trainable is None:
            raise InputError(
                f"{self.name} is a graph without its PyTorch module, which pruning and training work on.",
                "Give a transformers folder, a function of yours (module:function), or an nn.Module "
                "through AutoModel.wrap.",
            )
        return self.trainable.load()

    def with_module(self, module: nn.Module, processor: Processor | None = None) -> Model:
        """This model with another module in place of its own, and another processor where one is given.

        `module` takes and returns what this model's does. The graph is made when it is asked for.
        """
        assert self.trainable is not None
        export = self.trainable.export
        return replace(
            self,
            export=lambda: export(module),
            processor=processor or self.processor,
            trainable=replace(self.trainable, load=lambda: module),
        )

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of a classifier's outputs in order, where its configuration states them."""
        names = self.config.get("id2label")
        if not isinstance(names, Mapping):
            return None
        return tuple(str(names[key]) for key in sorted(names, key=int))

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
