"""Outputs that a graph has beside its own: what exits say, and what tokens are dropped by."""

from __future__ import annotations

import json

import onnx_ir as ir

NAMED = "openglm.extra_outputs"
"""Under which a graph carries their names, as JSON."""


def plain(model: ir.Model) -> ir.Model:
    """The graph with its own outputs alone, and what only the others need left out; `model` stays."""
    names = set(json.loads(model.metadata_props.get(NAMED, "[]")))
    if not names:
        return model
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    found = model.clone()
    for value in [value for value in found.graph.outputs if value.name in names]:
        found.graph.outputs.remove(value)
    del found.metadata_props[NAMED]
    RemoveUnusedNodesPass()(found)
    return found
