"""Uniform min-max quantization against a literal reference, its bound, and rows that strain fp16."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.compression.quantization import (
    Granularity,
    Grid,
    dequantize,
    grid_of,
    on_grid,
    pairs_of,
    quantize,
    quantize_dequantize,
    quantize_rows,
    relative_error,
    round_to,
)
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
@example([2.9561548217316158e-05, -3.086562719545327e-05, -1.723575123623678e-22], 8)  # between two levels, near 0
@given(st.lists(finite, min_size=1, max_size=12), st.sampled_from(BITS))
def test_error_is_at_most_half_a_step(row: list[float], bits: int) -> None:
    weight = np.array([row], dtype=np.float32)
    quantized = quantize_rows(weight, bits)
    values = dequantize(quantized).astype(np.float64)
    error = np.abs(values - weight)
    rounding = np.maximum(np.abs(weight), np.abs(values)) * 2.0**-24  # the value itself is an fp32 number
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


@st.composite
def matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray | None, int, Granularity, int]:
    """A matrix, its mask or none, bits, granularity and group size."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 20))
    weight = (random.normal(size=shape) * 10.0 ** draw(st.integers(-4, 3))).astype(np.float32)
    mask = random.random(shape) < draw(st.sampled_from([0.1, 0.6])) if draw(st.booleans()) else None
    granularity = draw(st.sampled_from(["tensor", "row", "group"]))
    return weight, mask, draw(st.sampled_from(BITS)), granularity, draw(st.integers(1, 25))


@settings(max_examples=200)
@given(matrices())
def test_every_grid_is_that_of_its_own_kept_weights_alone(
    case: tuple[np.ndarray, np.ndarray | None, int, Granularity, int],
) -> None:
    weight, mask, bits, granularity, group_size = case
    group_size = group_size if granularity == "group" else 0
    quantized = quantize(weight, bits, granularity, group_size, mask)
    values = dequantize(quantized)
    kept = np.ones(weight.shape, dtype=np.bool_) if mask is None else mask
    width = group_size or weight.shape[1]
    rows = [slice(None)] if granularity == "tensor" else [slice(row, row + 1) for row in range(weight.shape[0])]
    blocks = [(row, slice(start, start + width)) for row in rows for start in range(0, weight.shape[1], width)]
    assert quantized.scale.shape == quantized.minimum.shape == (len(blocks),)
    assert pairs_of(weight.shape, granularity, group_size) == len(blocks)
    for pair, block in enumerate(blocks):
        if not kept[block].any():
            assert (quantized.scale[pair], quantized.minimum[pair]) == (0, 0)
            continue
        alone = quantize_rows(weight[block][kept[block]][None], bits)
        assert (quantized.scale[pair], quantized.minimum[pair]) == (alone.scale[0], alone.minimum[0])
        assert np.array_equal(values[block][kept[block]], dequantize(alone)[0])
    assert not values[~kept].any()
    assert not quantized.codes[~kept].any()


def test_finer_grids_are_closer() -> None:
    weight = np.random.default_rng(2).normal(size=(40, 96)).astype(np.float32)
    weight *= np.exp(np.random.default_rng(3).normal(size=(40, 1))).astype(np.float32)
    finer: list[tuple[Granularity, int]] = [("tensor", 0), ("row", 0), ("group", 32), ("group", 8)]
    errors = [relative_error(weight, dequantize(quantize(weight, 4, name, size))) for name, size in finer]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.7 * errors[0]


def test_weights_beyond_a_grid_get_its_ends() -> None:
    grid = grid_of(np.array([[-1.0, 1.0]], dtype=np.float32), 3)
    rounded = round_to(np.array([[-5.0, 0.99, 7.0]], dtype=np.float32), grid)
    assert rounded.codes.tolist() == [[0, 7, 7]]


def test_codes_chosen_otherwise_stand_on_the_same_grid() -> None:
    grid = Grid(bits=3, scale=np.array([0.5], dtype=np.float16), minimum=np.array([-1.0], dtype=np.float16))
    chosen = on_grid(grid, np.array([[0, 3, 7]], dtype=np.uint8))
    assert dequantize(chosen).tolist() == [[-1.0, 0.5, 2.5]]


@pytest.mark.parametrize(("granularity", "group_size"), [("group", 0), ("row", 4), ("tensor", 4)])
def test_group_sizes_belong_to_groups(granularity: Granularity, group_size: int) -> None:
    with pytest.raises(ValueError, match="groups of"):
        quantize(np.zeros((2, 4), dtype=np.float32), 4, granularity, group_size)


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
