"""What can be done to a model: the choices of a search, and the recipe that a set of them makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from openglm.model.analysis.statistics import Statistics
from openglm.model.model import Model
from openglm.passes.channels import ChannelPruning
from openglm.passes.contract import GraphPass, PassConfig
from openglm.passes.distil import Distil
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.early_exit import EarlyExit
from openglm.passes.fp16 import Half
from openglm.passes.fuse import Fuse
from openglm.passes.heads import HeadPruning
from openglm.passes.layers import LayerPruning
from openglm.passes.low_rank import LowRank
from openglm.passes.neurons import NeuronPruning
from openglm.passes.program import ProgramOfExits
from openglm.passes.recipe import Recipe
from openglm.passes.static_wi8_ai8 import StaticInt8
from openglm.passes.vocabulary import VocabularyPruning
from openglm.passes.wi4_afp32 import WeightInt4
from openglm.passes.wi8_afp32 import WeightInt8

if TYPE_CHECKING:
    from torch import nn

Params = dict[str, Any]
NEGLIGIBLE = 0.05
"""A share of the work below which a kind of layer is not worth a scheme of its own."""
SHARES = (1.0, 0.75, 0.5, 0.25)
FLOAT = "float"
SPARED = (0, 1, 2, 4)
"""How many of the most sensitive parts quantization leaves alone."""


def schemes(statistics: Statistics) -> dict[str, GraphPass]:
    """Quantization schemes for a model by where its work is, the most promising first, by their codes."""
    total = max(statistics.macs, 1)
    convolutions = sum(item.macs for item in statistics.operators if "Conv" in item.op_type) / total
    found: list[GraphPass] = []
    if convolutions < 1 - NEGLIGIBLE:
        found += [DynamicInt8()]
    if convolutions > NEGLIGIBLE:
        found += [StaticInt8(), StaticInt8(method="percentile"), StaticInt8(method="entropy")]
    if convolutions < 1 - NEGLIGIBLE:
        found += [WeightInt8(compute="int8")]
        found += [StaticInt8(method="percentile")] if convolutions <= NEGLIGIBLE else []
    found += [WeightInt8(), Half()]
    if convolutions < 1 - NEGLIGIBLE:
        found += [WeightInt4(symmetric=False), WeightInt4(symmetric=False, compute="int8")]
    return {scheme.code: scheme for scheme in found}


@dataclass(frozen=True)
class Space:
    """The choices of one search; the first of each leaves the model as it is."""

    schemes: Mapping[str, GraphPass]
    choices: Mapping[str, tuple[Any, ...]]
    """By parameter; "quantization" and "spared" are always there."""
    sensitive: tuple[tuple[str, ...], ...] = field(default=())
    """Parts, by their modules, whose quantization costs most, the costliest first."""
    gates_drop: float | None = None
    """What the gates of exits may cost; none: there are no exits."""

    @classmethod
    def of(
        cls, model: Model, statistics: Statistics, *, structure: bool, gates_drop: float | None = None
    ) -> Space:
        """The space of a model; without `structure` only what is done to its graph, with `gates_drop`
        exits too, where the model answers with classes or a number."""
        found = schemes(statistics)
        choices: dict[str, tuple[Any, ...]] = {"quantization": (FLOAT, *found), "spared": SPARED}
        if structure and model.trainable is not None:
            choices |= dict(_structure(model.module, model))
            bare = not getattr(model.module, "extra_outputs", ())
            if gates_drop is not None and bare and model.task.endswith("classification"):
                choices["exits"] = (False, True)
        return cls(found, choices, gates_drop=gates_drop)

    def sparing(self, sensitive: Sequence[tuple[str, ...]]) -> Space:
        """This space with what is known of sensitive parts, which mixed precision spares."""
        return replace(self, sensitive=tuple(sensitive))

    @property
    def structural(self) -> tuple[str, ...]:
        """The parameters that change the module."""
        return tuple(name for name in self.choices if name not in ("quantization", "spared", "multiple"))

    def untouched(self, **changes: Any) -> Params:
        """Parameters that leave all as it is, but for `changes`."""
        return {name: values[0] for name, values in self.choices.items()} | changes

    def changes_module(self, params: Mapping[str, Any]) -> bool:
        """Whether parameters change the module, so that training could repair it."""
        return any(
            params.get(name, self.choices[name][0]) != self.choices[name][0] for name in self.structural
        )

    def recipe(self, params: Mapping[str, Any], training: Sequence[Distil] = ()) -> Recipe:
        """The recipe that parameters stand for: what is cut away, training, quantization."""
        chosen = self.untouched() | dict(params)
        steps: list[PassConfig] = []
        if chosen.get("vocabulary"):
            steps.append(VocabularyPruning())
        if (layers := chosen.get("layers")) is not None and layers != self.choices["layers"][0]:
            steps.append(LayerPruning(keep=layers))
        for name, kind, settings in _SHARED:
            if (share := chosen.get(name, 1.0)) != 1.0:
                steps.append(kind(keep=share, **{setting: chosen[setting] for setting in settings}))
        if chosen.get("exits"):
            steps.append(EarlyExit())
        if steps:
            steps += training
        steps.append(Fuse())
        if chosen["quantization"] != FLOAT:
            scheme = self.schemes[chosen["quantization"]]
            spared = tuple(name for part in self.sensitive[: chosen["spared"]] for name in part)
            steps.append(_sparing(scheme, spared) if spared else scheme)
        if chosen.get("exits"):
            assert self.gates_drop is not None
            steps.append(ProgramOfExits(max_drop=self.gates_drop))
        return tuple(steps)

    def first(self, quantization: str) -> Iterator[Params]:
        """Sets of choices to begin with on a model's structure, the most promising first."""
        kept = {"quantization": quantization}
        if "neurons" in self.choices:  # what repair alone makes good
            yield self.untouched(**kept, neurons=0.5)
        if "layers" in self.choices:
            most = self.choices["layers"][0]
            fewer, half, third = (max(1, round(most * share)) for share in (2 / 3, 1 / 2, 1 / 3))
            if "neurons" in self.choices:
                yield self.untouched(**kept, layers=fewer, neurons=0.5)
            yield self.untouched(**kept, layers=half)
            if "neurons" in self.choices:
                yield self.untouched(**kept, layers=half, neurons=0.5)
            yield self.untouched(**kept, layers=third)
        if "channels" in self.choices:
            for share in (0.5, 0.75):
                yield self.untouched(**kept, channels=share)
            if "layers" in self.choices:
                yield self.untouched(**kept, layers=fewer, channels=0.6)
                yield self.untouched(**kept, layers=half, channels=0.75)
            yield self.untouched(**kept, channels=0.35)


_SHARED: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("heads", HeadPruning, ()),
    ("neurons", NeuronPruning, ()),
    ("channels", ChannelPruning, ("multiple",)),
    ("rank", LowRank, ()),
)
"""What keeps a share: its parameter, its pass, and the parameters that are further fields of the pass."""


def _structure(module: nn.Module, model: Model) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What of a module can be cut away."""
    from torch import nn

    from openglm.passes.structure.blocks import blocks
    from openglm.passes.structure.residuals import residuals

    found = blocks(module)
    most = len({block.index for block in found}) or len(residuals(module))
    if most > 1:
        fewer = sorted({max(1, round(most * share)) for share in (5 / 6, 2 / 3, 1 / 2, 1 / 3)} - {most})
        yield "layers", (most, *reversed(fewer))
    if any(block.feed_forward for block in found):
        yield "neurons", SHARES
    if any(block.attention for block in found):
        yield "heads", SHARES[:3]
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if len(convolutions) > 1:
        yield "channels", (1.0, 0.85, 0.75, 0.6, 0.5, 0.35, 0.25)
        yield "multiple", (16, 8)  # many an engine's kernels take sixteen channels at once
    yield "rank", SHARES[:3]
    if model.processor is not None and model.processor.kind == "text" and model.task != "text-generation":
        yield "vocabulary", (False, True)


def _sparing(scheme: GraphPass, modules: tuple[str, ...]) -> GraphPass:
    """A scheme that leaves modules in float, or, where it has 4 bits, gives them 8."""
    for name in ("skip", "eight"):
        if name in type(scheme).model_fields:
            return scheme.model_copy(update={name: modules})
    return scheme
