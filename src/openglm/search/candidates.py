"""Which recipes are tried on a model, the most promising first."""

from __future__ import annotations

from collections.abc import Sequence

from openglm.model.analysis.statistics import Statistics
from openglm.passes.contract import PassConfig
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.fp16 import Half
from openglm.passes.fuse import Fuse
from openglm.passes.static_wi8_ai8 import StaticInt8
from openglm.passes.wi4_afp32 import WeightInt4
from openglm.passes.wi8_afp32 import WeightInt8

Recipe = tuple[PassConfig, ...]
NEGLIGIBLE = 0.05
"""A share of the work below which a kind of layer is not worth a scheme of its own."""


def recipes(statistics: Statistics) -> list[Recipe]:
    """Recipes for a model by where its work is: in convolutions, in linear layers, or in both."""
    total = max(statistics.macs, 1)
    convolutions = sum(item.macs for item in statistics.operators if "Conv" in item.op_type) / total
    schemes: list[PassConfig] = []
    if convolutions < 1 - NEGLIGIBLE:
        schemes += [DynamicInt8()]
    if convolutions > NEGLIGIBLE:
        schemes += [StaticInt8(), StaticInt8(method="percentile"), StaticInt8(method="entropy")]
    if convolutions < 1 - NEGLIGIBLE:
        schemes += [WeightInt8(compute="int8")]
        schemes += [StaticInt8(method="percentile")] if convolutions <= NEGLIGIBLE else []
    schemes += [WeightInt8(), Half()]
    if convolutions < 1 - NEGLIGIBLE:
        schemes += [WeightInt4(symmetric=False), WeightInt4(symmetric=False, compute="int8")]
    return [(Fuse(),), *((Fuse(), scheme) for scheme in schemes)]


def code(recipe: Sequence[PassConfig]) -> str:
    """A recipe in one line."""
    return " + ".join(step.code for step in recipe) or "as it is"
