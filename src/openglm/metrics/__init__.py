"""What a candidate is judged by. A metric is a file of this folder with a `metric`; adding one is enough."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from openglm.errors import InputError, nearest
from openglm.metrics import custom
from openglm.metrics.metric import Arrays, Evaluation, Metric, Score

__all__ = ["Arrays", "Evaluation", "Metric", "Score", "names", "resolve"]


def names() -> list[str]:
    """The metrics known by name."""
    return sorted(_known())


def resolve(name: str) -> Metric:
    """The metric of a name, or the user's own for "module:function"; raises `InputError` for neither."""
    if ":" in name:
        return custom.load(name)
    known = _known()
    if name not in known:
        raise InputError(f"There is no metric '{name}'.", nearest(name, known) + " Or give module:function.")
    return known[name]


def _known() -> dict[str, Metric]:
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    metrics: list[Metric] = [module.metric for module in modules if hasattr(module, "metric")]
    return {metric.name: metric for metric in metrics}
