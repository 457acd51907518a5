"""Open-AutoGLM fits neural models to phones: verdict, compression, proof, bundle.

Names are imported on first use, so that `import openglm` is quick and needs no engine and no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "AutoModel": "openglm.model.auto",
    "Budget": "openglm.device.fit",
    "Device": "openglm.device.profile",
    "GraphOptimizer": "openglm.search.graph_optimizer",
    "Model": "openglm.model.model",
    "OpenGLMError": "openglm.errors",
    "calibrate": "openglm.search.recalibration",
    "distil": "openglm.training.distillation",
    "export": "openglm.targets.export",
    "fit": "openglm.device.fit",
    "load": "openglm.dynamic.model_file",
    "optimize": "openglm.search.optimize",
    "plan": "openglm.memory.plan",
    "to_litert": "openglm.targets.litert_file",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'openglm' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
