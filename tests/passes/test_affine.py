"""Quantized arrays: the error is bounded, zero is exact, and layouts are what engines read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openglm.passes import affine

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FINITE)


@given(MATRICES, st.sampled_from([None, 0, 1, -1]), st.sampled_from([7, 8]))
def test_symmetric_error_is_at_most_half_a_step(
    weight: np.ndarray, axis: int | None, bits: Literal[7, 8]
) -> None:
    axis = None if axis is None else axis % 2
    integers, scales = affine.symmetric(weight, axis, bits)
    assert integers.dtype == np.int8
    assert scales.dtype == np.float32
    assert scales.shape == (() if axis is None else (weight.shape[axis],))
    assert np.abs(integers.astype(int)).max() <= 2 ** (bits - 1) - 1
    steps = scales if axis != 0 else scales[:, None]
    error = np.abs(integers * steps.astype(np.float64) - weight)
    largest = 2.0 ** (bits - 1) * steps.astype(np.float64) * np.finfo(np.float32).eps
    tiny = np.finfo(np.float32).tiny * 128  # slices so small take scale 1, and become zeros
    assert (error <= np.maximum(0.5 * steps + largest, 0) + tiny).all()
    assert (integers[weight == 0] == 0).all()


def test_symmetric_of_kernels_has_a_scale_for_each_output() -> None:
    weight = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    integers, scales = affine.symmetric(weight, 0)
    np.testing.assert_allclose(scales, np.array([11, 23], np.float32) / 127)
    assert integers[0, 2, 1, 1] == integers[1, 2, 1, 1] == 127


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-44, -1e-39])
def test_zeros_and_subnormal_weights_have_a_usable_scale(value: float) -> None:
    integers, scales = affine.symmetric(np.full((2, 3), value, np.float32), 0)
    assert (integers == 0).all()
    assert (scales == 1).all()


def test_a_least_scale_holds_where_the_weights_ask_for_less() -> None:
    weight = np.array([[0, 0], [1, -127]], np.float32)
    integers, scales = affine.symmetric(weight, 0, least=np.array([0.5, 0.5]))
    assert scales.tolist() == [0.5, 1.0]
    assert integers.tolist() == [[0, 0], [1, -127]]


@given(FINITE, FINITE, st.sampled_from([16, 256]))
def test_asymmetric_range_holds_its_ends_and_zero(first: float, second: float, levels: int) -> None:
    low, high = min(first, second), max(first, second)
    scale, zero = affine.asymmetric_range(low, high, levels)
    assert scale > 0
    assert 0 <= zero < levels
    if max(high, 0.0) - min(low, 0.0) < 1e-36:
        return
    for value in (low, high, 0.0):
        integer = np.clip(np.rint(value / float(scale)) + zero, 0, levels - 1)
        assert abs((integer - zero) * float(scale) - value) <= 0.5001 * float(scale)
    assert (zero - zero) * scale == 0


@pytest.mark.parametrize(("low", "high", "zero"), [(-3, -1, 255), (1, 3, 0), (0, 0, 0), (-1, 3, 64)])
def test_asymmetric_range_is_widened_to_zero(low: float, high: float, zero: int) -> None:
    assert affine.asymmetric_range(low, high)[1] == zero


def test_blocks_are_padded_with_zeros() -> None:
    weight = np.arange(10, dtype=np.float32).reshape(5, 2)
    grouped = affine.blocks(weight, 4)
    assert grouped.shape == (2, 2, 4)
    np.testing.assert_array_equal(grouped.reshape(2, 8)[:, :5], weight.T)
    assert (grouped[:, 1, 1:] == 0).all()


def slow_block(block: np.ndarray, bits: int, is_symmetric: bool, zero: int) -> tuple[float, float]:
    """The least squared error over the scales allowed, and the scale of the whole range.

    `zero` is the zero point that was found: where the exact one lies between two integers, either may be.
    """
    top = 2**bits - 1
    if is_symmetric:
        full = -max(block.tolist(), key=lambda value: (abs(value), value)) / 2 ** (bits - 1)
        assert zero == 2 ** (bits - 1)
    else:
        full = (max(block.max(), 0) - min(block.min(), 0)) / top
        assert abs(zero - (-min(block.min(), 0) / full if full else 0)) < 0.5001
    if not full:
        return 0.0, 1.0
    errors = []
    for shrink in (1.0, 0.96, 0.92, 0.88, 0.84) if bits < 8 else (1.0,):
        scale = full * shrink
        integers = [min(max(round(value / scale) + zero, 0), top) for value in block.tolist()]
        errors.append(
            sum(((i - zero) * scale - v) ** 2 for i, v in zip(integers, block.tolist(), strict=True))
        )
    return min(errors), full


@given(
    hnp.arrays(np.float64, (3, 2, 8), elements=st.integers(-1000, 1000).map(lambda value: value / 64)),
    st.sampled_from([4, 8]),
    st.booleans(),
)
@example(np.tile([0, 0, 0, 0, 0, 8.90625, -9.484375, 9.484375], (3, 2, 1)), 4, True)  # two are the largest
def test_blockwise_is_its_slow_definition(grouped: np.ndarray, bits: int, is_symmetric: bool) -> None:
    integers, scales, zeros = affine.blockwise(grouped.astype(np.float32), bits, is_symmetric)
    assert integers.dtype == zeros.dtype == np.uint8
    assert scales.dtype == np.float32
    assert integers.max() < 2**bits
    real = (integers.astype(float) - zeros[..., None]) * scales[..., None]
    for index in np.ndindex(3, 2):
        error, full = slow_block(grouped[index], bits, is_symmetric, int(zeros[index]))
        found = np.square(real[index] - grouped[index]).sum()
        assert found == pytest.approx(error, rel=1e-3, abs=1e-4 * full**2)


@given(hnp.arrays(np.float32, (2, 1, 4), elements=FINITE), st.sampled_from([4, 8]), st.booleans())
def test_blockwise_of_any_numbers_stays_close(grouped: np.ndarray, bits: int, is_symmetric: bool) -> None:
    integers, scales, zeros = affine.blockwise(grouped, bits, is_symmetric)
    assert np.isfinite(scales).all()
    assert (np.abs(scales) >= np.finfo(np.float32).tiny).all()
    real = (integers.astype(float) - zeros[..., None]) * scales[..., None].astype(float)
    step = np.abs(grouped).max(-1, keepdims=True).astype(float) * 2 / (2**bits - 1)
    # A cut scale may give up one outlier for the rest, never more than the squares of half steps.
    tiny = np.finfo(np.float32).tiny * 2**bits * 2
    assert (np.abs(real - grouped) <= step * np.sqrt(grouped.shape[-1]) + tiny).all()


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_side=7), elements=st.integers(0, 15)))
def test_packed_nibbles_come_back(values: np.ndarray) -> None:
    packed = affine.pack_nibbles(values)
    assert packed.shape == (*values.shape[:-1], -(-values.shape[-1] // 2))
    unpacked = np.stack([packed & 15, packed >> 4], -1).reshape(*values.shape[:-1], -1)
    np.testing.assert_array_equal(unpacked[..., : values.shape[-1]], values)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("inputs", [64, 80])
def test_layout_is_that_of_matmulnbits(
    build: Callable[..., ir.Model],
    run: Callable[..., dict[str, np.ndarray]],
    rng: np.random.Generator,
    bits: int,
    is_symmetric: bool,
    inputs: int,
) -> None:
    weight = rng.normal(size=(inputs, 12)).astype(np.float32) + 0.3
    integers, scales, zeros = affine.blockwise(affine.blocks(weight, 32), bits, is_symmetric)
    real = (integers.astype(np.float32) - zeros[..., None]) * scales[..., None]
    stored = {"b": affine.pack_nibbles(integers) if bits == 4 else integers, "s": scales}
    if not is_symmetric:
        stored["z"] = affine.pack_nibbles(zeros) if bits == 4 else zeros
    model = build(
        f"g (float[n,{inputs}] x) => (float[n,12] y) {{ y = com.microsoft.MatMulNBits "
        f"<K={inputs}, N=12, bits={bits}, block_size=32> ({', '.join(['x', *stored])}) }}",
        **stored,
    )
    expected = real.reshape(12, -1)[:, :inputs].T
    # The rows of the identity read the matrix itself.
    found = run(model, {"x": np.eye(inputs, dtype=np.float32)})["y"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
