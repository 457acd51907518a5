"""Orders of operators against a brute force over all of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import pytest
from hypothesis import given, settings

from openglm.memory.lifetime import lifetimes, peak
from openglm.memory.order import best
from openglm.model.analysis.shapes import Shapes, resolve
from planned_graphs import BRANCHES, graphs, mixed, parse


def orders(shapes: Shapes) -> Iterator[list[ir.Node]]:
    """All orders in which every node comes after those that it reads of."""

    def extend(done: list[ir.Node], left: list[ir.Node]) -> Iterator[list[ir.Node]]:
        if not left:
            yield done
        for node in left:
            if not any(value and value.producer() in left for value in node.inputs):
                yield from extend([*done, node], [other for other in left if other is not node])

    return extend([], list(shapes.graph))


@pytest.mark.parametrize("in_place", [False, True])
@given(model=graphs())
@settings(max_examples=40, deadline=None)
def test_it_is_the_best_of_all_orders(model: object, in_place: bool) -> None:
    shapes = resolve(ir.from_proto(model))
    if len(list(shapes.graph)) > 6:
        return
    found = best(shapes, in_place=in_place, seconds=20)
    least = min(peak(lifetimes(shapes, order=order, in_place=in_place)) for order in orders(shapes))
    assert found.optimal
    assert found.peak == least == peak(lifetimes(shapes, order=found.nodes, in_place=in_place))


def test_one_branch_after_the_other() -> None:
    shapes = resolve(parse(BRANCHES))
    found = best(shapes, in_place=True, seconds=20)
    assert found.peak < peak(lifetimes(shapes, in_place=True))
    assert {id(node) for node in found.nodes} == {id(node) for node in shapes.graph}


def test_out_of_time_it_is_the_given_order() -> None:
    shapes = resolve(mixed())
    found = best(shapes, in_place=True, seconds=0)
    assert found.peak <= peak(lifetimes(shapes, in_place=True))
