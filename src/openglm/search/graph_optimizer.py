"""Named recipes: what is usually done to a model for one aim, to be run, printed or edited."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from openglm.device.profile import Device
from openglm.errors import InputError, nearest
from openglm.model.analysis.statistics import analyse
from openglm.model.auto import AutoModel
from openglm.model.extra_outputs import NAMED
from openglm.model.model import Model
from openglm.passes.cascade import Cascade
from openglm.passes.contract import PassConfig, ProgramPass
from openglm.passes.distil import Distil
from openglm.passes.early_exit import EarlyExit
from openglm.passes.fuse import Fuse
from openglm.passes.program import ProgramOfExits
from openglm.passes.token_pruning import TokenPruning
from openglm.search.optimize import optimize
from openglm.search.result import Result
from openglm.search.space import schemes

AUTO = "auto"
DROP, UNSURE_DROP = 0.01, 0.05
"""What may be lost of the metric, with data and without."""
STRATEGIES = {
    "fuse": "clean the graph, and join layers that read the same",
    "int8": "fuse, and the 8-bit scheme that suits the model",
    "early_exit": "exits that learn from the end; easy inputs leave at them",
    "token_pruning": "tokens that receive little attention are dropped between layers",
    "cascade": "a small model of yours answers where it is sure, this one otherwise",
    "dynamic_pruning": "both of these, where the model is an encoder of text; int8",
    AUTO: "a search over pruning, factorising, training, exits and quantization, within the time limit",
}
"""What each strategy does."""


class GraphOptimizer:
    """Optimizes a model by a strategy that has a name, or by passes of one's own.

    `model` is what `AutoModel` reads, `device` a profile that it is predicted for, and the rest as
    for `openglm.optimize`: strategies that train, or set gates, need `data`.
    """

    def __init__(
        self, model: Model | str | PathLike[str], device: Device | str | PathLike[str] = "host", **given: Any
    ) -> None:
        self.model = AutoModel.from_pretrained(model)
        self._device = device
        self._given = given

    @property
    def _has_learnt(self) -> bool:
        """Whether the model comes with exits, or with tokens to drop, that have learnt."""
        return NAMED in self.model.graph.metadata_props

    def recipe(
        self, strategy: str, *, steps: int = 1000, max_drop: float = 0.005, small: str | None = None
    ) -> list[PassConfig]:
        """The passes that a strategy stands for on this model, in order; empty for "auto", which searches.

        `steps` is how long exits learn, and the network to do with fewer tokens; `max_drop` what a program's
        gates may cost; `small` the small model of a cascade, as `AutoModel` reads it. A model that comes with
        exits is not given others. Raises `InputError` for a strategy that there is not, or a cascade without
        a small model.
        """
        if strategy not in STRATEGIES:
            raise InputError(
                f"There is no strategy '{strategy}'.",
                nearest(strategy, STRATEGIES),
            )
        if strategy == AUTO:
            return []
        text = self.model.processor is not None and self.model.processor.kind == "text"
        if strategy == "cascade":
            if small is None:
                raise InputError("A cascade needs a small model.", "Give small=, with the same inputs.")
            return [Fuse(), Cascade(small=small, max_drop=max_drop)]
        found: list[PassConfig] = []
        if not self._has_learnt:
            if strategy in ("early_exit", "dynamic_pruning"):
                found.append(EarlyExit())
            if strategy == "token_pruning" or (strategy == "dynamic_pruning" and text):
                found.append(TokenPruning())
        if found:
            found.append(Distil(steps=steps))
        found.append(Fuse())
        if strategy in ("int8", "dynamic_pruning"):
            found.append(next(iter(schemes(analyse(self.model.graph)).values())))
        if strategy in ("early_exit", "token_pruning", "dynamic_pruning"):
            found.append(ProgramOfExits(max_drop=max_drop))
        return found

    def optimize(
        self,
        strategy: str | Sequence[PassConfig] = AUTO,
        *,
        steps: int = 1000,
        max_drop: float | None = None,
        small: str | None = None,
    ) -> Result:
        """What became of the model: `.best` is the result, or the original where the recipe does not pay.

        `max_drop` is what may be lost of the metric in all; of it a program's gates may cost half. If not
        given it is 0.01, and 0.05 where nothing judges but what the model brought in place of data: of
        sentences that it was not made for a model is often of two minds, and such answers turn easily.
        """
        brought = self._given.get("data") is None and self.model.stand_ins is not None
        if max_drop is None:
            max_drop = UNSURE_DROP if brought else DROP
        passes = strategy
        if isinstance(passes, str):
            passes = self.recipe(passes, steps=steps, max_drop=max_drop / 2, small=small)
        learns = any(
            step.needs_training or (isinstance(step, ProgramPass) and not brought) for step in passes
        )
        if learns and self._given.get("data") is None:
            raise InputError(
                "This strategy learns from data, and there is none.",
                "Give GraphOptimizer data=, as to openglm.optimize.",
            )
        recipe = tuple(passes) or None
        return optimize(self.model, self._device, recipe=recipe, max_drop=max_drop, **self._given)
