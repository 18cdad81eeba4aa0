"""Uniform min-max quantization against a literal reference, its bound, and rows that strain fp16."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compression.quantization import dequantize, quantize_dequantize, quantize_rows, relative_error
from pipeline.errors import StudyError

BITS = range(2, 9)


def literal_row(row: list[float], bits: int) -> tuple[list[int], float, float]:
    """Codes, step and minimum of one row, by trying every level for every weight."""
    levels = 2**bits - 1
    minimum = np.float16(min(row))
    if float(minimum) > min(row):
        minimum = np.nextafter(minimum, np.float16(-np.inf))
    exact = (max(row) - float(minimum)) / levels
    step = np.float16(exact)
    if float(step) < exact:
        step = np.nextafter(step, np.float16(np.inf))
    grid = [float(minimum) + code * float(step) for code in range(levels + 1)]
    codes = [int(np.argmin([abs(level - weight) for level in grid])) for weight in row]
    return codes, float(step), float(minimum)


@pytest.mark.parametrize("bits", BITS)
def test_codes_equal_a_slow_literal_search(bits: int) -> None:
    weight = np.random.default_rng(bits).normal(size=(6, 40)).astype(np.float32)
    quantized = quantize_rows(weight, bits)
    for row in range(6):
        codes, step, minimum = literal_row([float(value) for value in weight[row]], bits)
        assert quantized.codes[row].tolist() == codes
        assert (float(quantized.scale[row]), float(quantized.minimum[row])) == (step, minimum)
        values = [np.float32(minimum + code * step) for code in codes]
        assert dequantize(quantized)[row].tolist() == values


finite = st.floats(-60000, 60000, width=32) | st.floats(-1, 1, width=32) | st.floats(-(2.0**-14), 2.0**-14, width=32)


@settings(max_examples=200)
@given(st.lists(finite, min_size=1, max_size=12), st.sampled_from(BITS))
def test_error_is_at_most_half_a_step(row: list[float], bits: int) -> None:
    weight = np.array([row], dtype=np.float32)
    quantized = quantize_rows(weight, bits)
    error = np.abs(dequantize(quantized).astype(np.float64) - weight)
    rounding = np.abs(weight) * 2.0**-24  # the value itself is an fp32 number
    assert (error <= float(quantized.scale[0]) / 2 * (1 + 1e-12) + rounding).all()
    # The step is the best one up to fp16: one rounding of the step, one of the minimum, never finer than a subnormal.
    spread = float(weight.max()) - float(weight.min())
    slack = 2.0**-10 * abs(float(weight.min())) + 2.0**-24
    assert float(quantized.scale[0]) <= (spread + slack) / (2**bits - 1) * (1 + 2.0**-10) + 2.0**-24


@pytest.mark.parametrize("bits", BITS)
def test_error_shrinks_as_the_theory_says(bits: int) -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, size=(50, 4000)).astype(np.float32)
    # Uniform weights: the error is uniform in a step, so that ||W - Q|| / ||W|| is step / sqrt(12) over 1 / sqrt(3).
    expected = 2 / (2**bits - 1) / 2
    assert relative_error(weight, quantize_dequantize(weight, bits)) == pytest.approx(expected, rel=0.02)


def test_constant_and_zero_rows() -> None:
    weight = np.array([[0.0] * 4, [0.5] * 4, [0.1] * 4, [-3e-3] * 4], dtype=np.float32)
    quantized = quantize_rows(weight, 4)
    assert quantized.scale[:2].tolist() == [0, 0]
    assert np.array_equal(dequantize(quantized)[:2], weight[:2])
    # fp16 alone would be off by up to 3e-5 at 0.1; its 15 levels bridge the gap to the next fp16 number.
    assert dequantize(quantized)[2:] == pytest.approx(weight[2:], abs=2.1e-6)


def test_tiny_rows_neither_divide_by_zero_nor_grow() -> None:
    weight = np.array([[1e-9, -1e-9, 5e-10], [1e-40, 0, 0], [1e-6, 2e-6, 3e-6]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        values = quantize_dequantize(weight, 8)
    assert np.abs(values - weight).max() <= 2.0**-25  # half of fp16's smallest step


def test_rows_do_not_touch_each_other() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    louder = weight.copy()
    louder[1] *= 1000
    assert np.array_equal(quantize_dequantize(weight, 3)[[0, 2]], quantize_dequantize(louder, 3)[[0, 2]])


@pytest.mark.parametrize("bits", BITS)
def test_pruned_weights_are_zero_and_do_not_widen_the_range(bits: int) -> None:
    random = np.random.default_rng(bits)
    weight = random.normal(size=(5, 30)).astype(np.float32)
    mask = random.random(weight.shape) < 0.4
    mask[3] = False
    weight[~mask] = random.choice([-1000.0, 1000.0], size=(~mask).sum())
    quantized = quantize_rows(weight, bits, mask)
    values = dequantize(quantized)
    assert not values[~mask].any()
    assert not np.signbit(values[~mask]).any()
    for row in (0, 1, 2, 4):
        alone = quantize_dequantize(weight[row, mask[row]][None], bits)
        assert np.array_equal(values[row, mask[row]], alone[0])
    assert (quantized.scale[3], quantized.minimum[3]) == (0, 0)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, 4.0, True, "4"])
def test_other_bits_are_refused(bits: object) -> None:
    with pytest.raises(StudyError, match="from 2 to 8"):
        quantize_rows(np.zeros((1, 2), dtype=np.float32), bits)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -7e4])
def test_a_diverged_model_is_refused(value: float) -> None:
    with pytest.raises(StudyError, match="diverged"):
        quantize_rows(np.array([[0.0, value]], dtype=np.float32), 2)


def test_wrong_shapes_and_types_are_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        quantize_rows(np.zeros(3, dtype=np.float32), 4)
    with pytest.raises(ValueError, match="matrix"):
        quantize_rows(np.zeros((3, 3)), 4)
    with pytest.raises(ValueError, match="mask"):
        quantize_rows(np.zeros((3, 3), dtype=np.float32), 4, np.ones((3, 2), dtype=np.bool_))


def test_relative_error_of_zeros() -> None:
    zero, one = np.zeros((2, 2), dtype=np.float32), np.ones((2, 2), dtype=np.float32)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero, one) == float("inf")
    assert relative_error(one, zero) == 1
