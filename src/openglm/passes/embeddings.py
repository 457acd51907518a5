"""Embedding tables as int8 rows, each with its own scale: a quarter of the size in plain operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from openglm.passes import affine
from openglm.passes.rewriting import Rewriter, attribute, constant_of

SMALLEST = 4096
"""Elements below which a table is left alone: nothing is saved by it."""
_NARROWEST = 16
"""Features below which the scales of the rows weigh as much as the rows."""


def tables(model: ir.Model) -> Iterator[tuple[ir.Node, np.ndarray]]:
    """Every look-up of rows in a constant matrix, (rows, features), float32, with its node.

    A matrix that something else reads too, as a tied head does, is no table: it has to stay, and
    rows beside it would only add to the size.
    """
    for node in list(model.graph.all_nodes()):
        if not _looks_up(node):
            continue
        table = constant_of(node.inputs[0])
        if table is None or table.ndim != 2 or table.dtype != np.float32:
            continue
        if table.size >= SMALLEST and table.shape[1] >= _NARROWEST and _only_looked_up(node.inputs[0]):
            yield node, table


def _looks_up(node: ir.Node) -> bool:
    return not node.domain and node.op_type == "Gather" and attribute(node, "axis", 0) == 0


def _only_looked_up(table: ir.Value | None) -> bool:
    return (
        table is not None
        and not table.is_graph_output()
        and all(_looks_up(user) and index == 0 for user, index in table.uses())
    )


def quantize_rows(model: ir.Model) -> int:
    """Put int8 tables in place of float ones, in `model` itself; how many there were."""
    made: dict[str, tuple[ir.Value, ir.Value]] = {}
    count = 0
    for node, table in tables(model):
        source, indices = node.inputs[0], node.inputs[1]
        assert source is not None
        rewriter = Rewriter(model, node)
        name = str(source.name)
        if name not in made:
            integers, scales = affine.symmetric(table, axis=0)
            made[name] = (
                rewriter.constant(f"{name}_int8", integers),
                rewriter.constant(f"{name}_scale", scales[:, None]),
            )
        rows, scales_value = made[name]
        row = rewriter.op("Cast", [rewriter.op("Gather", [rows, indices])], {"to": int(ir.DataType.FLOAT)})
        rewriter.replace(
            node.outputs[0], rewriter.op("Mul", [row, rewriter.op("Gather", [scales_value, indices])])
        )
        count += 1
    return count
