"""Embedding tables as int8 rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from openglm.passes.affine import symmetric
from openglm.passes.contract import Applied
from openglm.passes.dynamic_wi8_ai8 import DynamicInt8
from openglm.passes.wi8_afp32 import WeightInt8

Build = Callable[..., ir.Model]
Run = Callable[..., dict[str, np.ndarray]]
Apply = Callable[..., Applied]


@pytest.fixture
def table(rng: np.random.Generator) -> np.ndarray:
    return (rng.normal(size=(200, 32)) * np.linspace(0.01, 3, 200)[:, None]).astype(np.float32)


def test_rows_come_back_within_half_a_step_each(
    build: Build, run: Run, apply: Apply, table: np.ndarray
) -> None:
    model = build("g (int64[n,s] ids) => (float[n,s,32] y) { y = Gather(t, ids) }", t=table)
    result = apply(DynamicInt8(), model)
    assert result.changed
    ids = np.array([[0, 7, 199], [-1, -200, 3]])
    found = run(result.graph, {"ids": ids})["y"]
    integers, scales = symmetric(table, 0)
    np.testing.assert_array_equal(found, (integers * scales[:, None])[ids])
    stored = sum(value.const_value.nbytes for value in result.graph.graph.initializers.values())
    assert stored == table.size + 4 * 200


def test_a_table_read_twice_is_stored_once(build: Build, apply: Apply, table: np.ndarray) -> None:
    model = build(
        "g (int64[n] a, int64[n] b) => (float[n,32] y) { p = Gather(t, a) q = Gather(t, b) y = Add(p, q) }",
        t=table,
    )
    assert len(apply(DynamicInt8(), model).graph.graph.initializers) == 2


TIED = """g (int64[n] ids) => (float[n,200] y) {
    h = Gather(t, ids) r = Tanh(h) u = Transpose <perm=[1,0]> (t) y = MatMul(r, u)
}"""


def test_a_table_tied_to_a_float_layer_stays(build: Build, apply: Apply, table: np.ndarray) -> None:
    model = build(
        "g (int64[n] ids) => (float[n,32] y, float[32,200] z) { y = Gather(t, ids) z = Transpose(t) }",
        t=table,
    )
    result = apply(DynamicInt8(), model)
    assert not result.changed
    assert list(result.graph.graph.initializers) == ["t"]


@pytest.mark.parametrize("config", [DynamicInt8(), WeightInt8(), WeightInt8(compute="int8")])
def test_a_tied_head_is_quantized_and_the_float_table_goes(
    build: Build, run: Run, apply: Apply, table: np.ndarray, config: DynamicInt8
) -> None:
    model = build(TIED, t=table)
    result = apply(config, model)
    assert sum(v.const_value.nbytes for v in result.graph.graph.initializers.values()) < table.nbytes * 0.65
    ids = np.arange(200)
    before, after = run(model, {"ids": ids})["y"], run(result.graph, {"ids": ids})["y"]
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


@pytest.mark.parametrize(
    ("node", "output"),
    [
        ("Gather <axis=1> (t, ids)", "float[200,n]"),
        ("Gather(cube, ids)", "float[n,32,1]"),
        ("Gather(precise, ids)", "double[n,32]"),
        ("Gather(thin, ids)", "float[n,1]"),
        ("Gather(small, ids)", "float[n,32]"),
    ],
)
def test_other_look_ups_are_left_alone(
    build: Build, apply: Apply, table: np.ndarray, node: str, output: str
) -> None:
    model = build(
        f"g (int64[n] ids) => ({output} y) {{ y = {node} }}",
        t=table, cube=table[..., None], precise=table.astype(np.float64), small=table[:9],
        thin=np.ones((5000, 1), np.float32),
    )  # fmt: skip
    assert not apply(DynamicInt8(), model).changed
