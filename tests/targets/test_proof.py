"""How far answers are from others, by definition."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from openglm.targets.proof import coarser, precision_of, prove

ROWS = [{"y": np.float32([[1, -4], [2, 0]])}, {"y": np.float32([[3, 3]])}]


def test_equal_answers_are_not_apart() -> None:
    found = prove(ROWS, ROWS)
    assert found == (0.0, 0.0, pytest.approx(1.0))
    assert found.within("fp32")


def test_differences_are_shares_of_the_largest_answer() -> None:
    other = [{"y": ROWS[0]["y"] + np.float32([[0, 0], [0, 1]])}, ROWS[1]]
    found = prove(other, ROWS)
    assert found.difference == pytest.approx(1 / 4)
    assert found.mean_difference == pytest.approx(1 / 4 / 6)
    one, two = (np.concatenate([row["y"].ravel() for row in rows]) for rows in (other, ROWS))
    assert found.cosine == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two))
    assert not found.within("fp16")


@pytest.mark.parametrize(
    "other",
    [
        [{"y": np.float32([[1, -4]])}, ROWS[1]],
        [{"z": ROWS[0]["y"]}, ROWS[1]],
        [{"y": np.float32([[1, np.nan], [2, 0]])}, ROWS[1]],
        [{"y": np.float32([[1, np.inf], [2, 0]])}, ROWS[1]],
    ],
)
def test_other_shapes_and_what_is_no_number_is_infinitely_far(other: list[dict[str, np.ndarray]]) -> None:
    found = prove(other, ROWS)
    assert found.difference == np.inf
    assert not found.within("int4")


def test_the_same_infinity_is_no_difference() -> None:
    rows = [{"y": np.float32([[np.inf, 1]])}]
    assert prove(rows, rows).difference == 0


def test_the_worst_output_counts() -> None:
    rows = [{"a": np.float32([1.0, 2.0]), "b": np.float32([1.0, 1.0])}]
    other = [{"a": np.float32([1.0, 2.0]), "b": np.float32([1.0, -1.0])}]
    found = prove(other, rows)
    assert found.difference == 2
    assert found.cosine == pytest.approx(0)


def test_the_coarser_of_two() -> None:
    assert coarser("fp16", "int8") == "int8"
    assert coarser("int4", "fp32") == "int4"


def test_precision_is_that_of_the_coarsest_weights() -> None:
    def graph(kind: ir.DataType, size: int) -> ir.Model:
        value = ir.val("w", const_value=ir.tensor(np.zeros(size, kind.numpy()), name="w"))
        node = ir.node("Identity", [value])
        return ir.Model(
            ir.Graph([], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 20}),
            ir_version=10,
        )

    assert precision_of(graph(ir.DataType.FLOAT, 5000)) == "fp32"
    assert precision_of(graph(ir.DataType.FLOAT16, 5000)) == "fp16"
    assert precision_of(graph(ir.DataType.INT8, 5000)) == "int8"
    assert precision_of(graph(ir.DataType.INT8, 50)) == "fp32"
