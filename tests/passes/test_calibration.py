"""Ranges do not depend on how the data comes, and no more than one batch is held."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openglm.errors import InputError
from openglm.passes.calibration import Entropy, Histogram, MinMax, Percentile, observe, observer

VALUES = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, 0.5, -4.0]),
    st.floats(-1e6, 1e6, width=32).filter(lambda value: value == 0 or abs(value) > 1e-6),
)
BATCH = hnp.arrays(np.float32, st.integers(1, 20), elements=VALUES)


@given(st.lists(BATCH, min_size=1, max_size=6), st.randoms())
def test_histogram_does_not_depend_on_order_or_splitting(batches: list[np.ndarray], random: object) -> None:
    whole, parts = Histogram(), Histogram()
    whole.add(np.concatenate(batches))
    random.shuffle(batches)  # type: ignore[attr-defined]
    for batch in batches:
        parts.add(batch)
    assert whole.reach == parts.reach
    assert whole.exact.range() == parts.exact.range()
    np.testing.assert_array_equal(whole.counts, parts.counts)


@given(st.lists(BATCH, min_size=1, max_size=6))
def test_histogram_is_the_one_of_all_values(batches: list[np.ndarray]) -> None:
    seen = Histogram()
    for batch in batches:
        seen.add(batch)
    expected, edges = np.histogram(
        np.concatenate(batches).astype(np.float64), seen.BINS, (-seen.reach, seen.reach)
    )
    np.testing.assert_array_equal(seen.counts, expected)
    np.testing.assert_allclose(seen.edges, edges)


@given(BATCH, st.sampled_from([90.0, 99.0, 99.99, 100.0]))
def test_percentile_is_numpys_within_a_bin(values: np.ndarray, percentile: float) -> None:
    seen = Percentile(percentile)
    seen.add(values)
    low, high = seen.range()
    width = 2 * seen.reach / seen.BINS
    tail = (100 - percentile) / 2
    if values.min() < 0:
        assert abs(low - np.percentile(values, tail, method="inverted_cdf")) <= width
    else:
        assert low == values.min()
    if values.max() > 0:
        assert abs(high - np.percentile(values, 100 - tail, method="inverted_cdf")) <= width
    else:
        assert high == values.max()


def test_percentile_leaves_an_end_at_zero() -> None:
    seen = Percentile(90)
    seen.add(np.maximum(np.linspace(-1, 1, 2001), 0).astype(np.float32))
    low, high = seen.range()
    assert low == 0
    assert high == pytest.approx(0.9, abs=1e-3)


def test_entropy_cuts_the_outliers_of_a_gaussian(rng: np.random.Generator) -> None:
    seen = Entropy()
    values = rng.normal(size=200_000).astype(np.float32)
    values[:3] = (60, -70, 80)
    seen.add(values)
    low, high = seen.range()
    assert 3 < high < 12
    assert -12 < low < -3


def test_entropy_keeps_all_of_a_uniform(rng: np.random.Generator) -> None:
    seen = Entropy()
    seen.add(rng.uniform(-1, 1, 200_000).astype(np.float32))
    low, high = seen.range()
    assert low < -0.97
    assert high > 0.97


def test_entropy_of_a_few_values_keeps_all(rng: np.random.Generator) -> None:
    seen = Entropy()
    seen.add(rng.normal(size=300).astype(np.float32))
    assert seen.range() == seen.exact.range()


@pytest.mark.parametrize("zeros", [0.3, 0.6, 0.9])
def test_entropy_is_not_misled_by_the_zeros_of_a_relu(rng: np.random.Generator, zeros: float) -> None:
    values = np.abs(rng.normal(size=200_000)).astype(np.float32)
    plain, sparse = Entropy(), Entropy()
    plain.add(values)
    sparse.add(np.concatenate([values, np.zeros(int(200_000 * zeros / (1 - zeros)), np.float32)]))
    assert sparse.range()[1] == pytest.approx(plain.range()[1], rel=0.1)


@pytest.mark.parametrize("make", [MinMax, Entropy, lambda: Percentile(99)])
def test_zeros_alone_and_tiny_values_have_a_range(make: Callable[[], MinMax]) -> None:
    for value in (0.0, 1e-30, -1e-30, 3e38):
        seen = make()
        seen.add(np.full(5, value, np.float32))
        low, high = seen.range()
        assert low <= value <= high or low == high == pytest.approx(value)


def test_an_observer_for_each_method() -> None:
    assert isinstance(observer("minmax", 99)(), MinMax)
    assert isinstance(observer("entropy", 99)(), Entropy)
    found = observer("percentile", 99)()
    assert isinstance(found, Percentile)
    assert found.percentile == 99


@pytest.fixture
def model(build: Callable[..., ir.Model]) -> ir.Model:
    return build("g (float[n,2] x) => (float[n,2] y) { h = Neg(x) y = Relu(h) }")


def ranges(
    model: ir.Model, batches: object, progress: Callable[[int], None] = lambda _: None
) -> dict[str, object]:
    tensors = [model.graph.inputs[0], model.graph[0].outputs[0], model.graph.outputs[0]]
    return observe(model, tensors, batches, MinMax, progress)  # type: ignore[arg-type, return-value]


def test_inputs_inner_tensors_and_outputs_are_observed(model: ir.Model) -> None:
    counts: list[int] = []
    batches = [{"x": np.array([[1, -2]], np.float32)}, {"x": np.array([[3, 0], [0, 0]], np.float32)}]
    found = ranges(model, batches, counts.append)
    assert found == {"x": (-2, 3), "h": (-3, 2), "y": (0, 2)}
    assert counts == [1, 2]
    assert len(model.graph.outputs) == 1


def test_only_one_batch_is_alive_at_a_time(model: ir.Model) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(50):
            array = np.ones((4, 2), np.float32)
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array
            assert sum(reference() is not None for reference in alive) <= 1

    ranges(model, batches())
    assert len(alive) == 50


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_input_error(model: ir.Model, bad: float) -> None:
    with pytest.raises(InputError, match=r"NaN or infinite.*'x'"):
        ranges(model, [{"x": np.array([[1, bad]], np.float32)}])


@pytest.mark.parametrize("batches", [[], [{"x": np.zeros((0, 2), np.float32)}]])
def test_no_data_is_an_input_error(model: ir.Model, batches: list[dict[str, np.ndarray]]) -> None:
    with pytest.raises(InputError, match="no calibration data"):
        ranges(model, batches)


def test_data_of_another_shape_is_an_input_error(model: ir.Model) -> None:
    with pytest.raises(InputError, match="cannot run"):
        ranges(model, [{"x": np.zeros((1, 3), np.float32)}])
