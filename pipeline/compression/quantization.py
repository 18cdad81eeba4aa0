"""k-bit uniform min-max quantization of weight matrices.

What it does: what shares a grid (a row, a group of neighbouring columns of a row, or the whole matrix) is covered by 2^k
equally spaced levels from its minimum to its maximum, and each weight becomes the number of its nearest level. A grid
costs 32 bits beside its codes: its minimum and its step, in fp16. Both are rounded outwards (minimum down, step up)
before the codes are chosen, so that the levels still span the weights and none is further than half a step from its
level.
Source: Li et al. 2020, "Train Large, Then Compress" (arXiv 2002.11794), section 4: uniform quantization between minimum
and maximum, after training, weights and embeddings, activations in fp32, one pair a matrix there.
When it helps and when not: the card in pipeline/compression/methods/uniform.py. Nothing runs faster: the weights are
expanded to fp32 when the model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError

MIN_BITS, MAX_BITS = 2, 8

Granularity = Literal["tensor", "row", "group"]
Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Codes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def pairs_of(shape: tuple[int, ...], granularity: Granularity, group_size: int = 0) -> int:
    """Return how many pairs of minimum and step a (R, C) matrix has: 1, R, or R ceil(C / group_size)."""
    if granularity == "tensor":
        return 1
    return shape[0] * (-(-shape[1] // group_size) if granularity == "group" else 1)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The levels of a (R, C) matrix: weight (r, c)'s are minimum[p] + code * scale[p], code from 0 to 2**bits - 1.

    p is 0 for granularity tensor, r for row, and r G + c // group_size for group, where G = ceil(C / group_size): the
    last group of a row may be shorter.
    """

    bits: int
    scale: Halves  # (pairs,), the step between two levels; 0 where all weights are one number that fp16 holds exactly
    minimum: Halves  # (pairs,), the value of code 0
    granularity: Granularity = "row"
    group_size: int = 0  # columns, of granularity group; else 0

    def spread(self, pairs: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return `scale` or `minimum` beside the weights: an array that broadcasts to a (R, C) `shape`."""
        if self.granularity != "group":
            return pairs[:, None]
        return np.repeat(pairs.reshape(shape[0], -1), self.group_size, axis=1)[:, : shape[1]]


@dataclass(frozen=True, kw_only=True)
class QuantizedTensor(Grid):
    """A (R, C) matrix in k bits: the level of its grid that each code names, or 0 where the mask is False."""

    codes: Codes  # (R, C), below 2**bits, 0 where pruned
    mask: Mask | None = None  # (R, C), True where kept; None keeps everything


def check_bits(bits: int) -> None:
    """Raise StudyError unless `bits` is a whole number from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise StudyError(f"cannot quantize to {bits!r} bits; choose a whole number from {MIN_BITS} to {MAX_BITS}")


def _check(weight: Floats, mask: Mask | None) -> None:
    if weight.ndim != 2 or weight.dtype != np.float32:
        raise ValueError(f"a float32 matrix is needed, not {weight.dtype} of shape {weight.shape}")
    if mask is not None and (mask.shape != weight.shape or mask.dtype != np.bool_):
        raise ValueError(f"the mask is {mask.dtype} of shape {mask.shape}, the matrix has shape {weight.shape}")
    if not np.isfinite(weight).all():
        raise StudyError("weights are not finite: the model has diverged; train it again at a lower learning rate")


def _half_below(values: npt.NDArray[np.float64]) -> Halves:
    """Return the largest fp16 numbers that are not above `values` (float64)."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float16)
    below: Halves = np.where(nearest.astype(np.float64) > values, np.nextafter(nearest, np.float16(-np.inf)), nearest)
    return below


def _half_above(values: npt.NDArray[np.float64]) -> Halves:
    return -_half_below(-values)


def _ranges(weight: Floats, granularity: Granularity, group_size: int) -> tuple[Floats, Floats]:
    """Return the least and the greatest weight of every pair, (pairs,) each."""
    if granularity == "tensor":
        return weight.min(keepdims=True).reshape(-1), weight.max(keepdims=True).reshape(-1)
    starts = np.arange(0, weight.shape[1], group_size if granularity == "group" else weight.shape[1])
    low, high = (extreme.reduceat(weight, starts, axis=1) for extreme in (np.minimum, np.maximum))
    return low.reshape(-1), high.reshape(-1)


def grid_of(
    weight: Floats, bits: int, granularity: Granularity = "row", group_size: int = 0, mask: Mask | None = None
) -> Grid:
    """Return the min-max grid of a (R, C) float32 matrix in `bits` bits; `group_size` columns make a group.

    With a (R, C) boolean `mask` the range of the kept (True) weights alone counts; where nothing is kept, minimum and
    step are 0. StudyError on `bits` outside 2..8 and on weights that are not finite or too large for fp16, which only a
    diverged model has.
    """
    check_bits(bits)
    _check(weight, mask)
    if (granularity == "group") != (group_size > 0):
        raise ValueError(f"granularity {granularity} with groups of {group_size} columns")
    if mask is None:
        low, high = (part.astype(np.float64) for part in _ranges(weight, granularity, group_size))
    else:
        low = _ranges(np.where(mask, weight, np.float32(np.inf)), granularity, group_size)[0].astype(np.float64)
        high = _ranges(np.where(mask, weight, np.float32(-np.inf)), granularity, group_size)[1].astype(np.float64)
        empty = low > high
        low[empty] = high[empty] = 0.0

    minimum = _half_below(low + 0.0)  # never -0, whichever of the two zeros a machine calls the smaller
    start = minimum.astype(np.float64)
    # Measured from the rounded minimum and rounded up: the last level is never below the maximum. A spread too small for
    # fp16 gets the smallest subnormal step, never 0, so that the division by it is safe.
    scale = _half_above((high - start) / (2**bits - 1))
    if not (np.isfinite(minimum).all() and np.isfinite(scale).all()):
        raise StudyError("weights too large for fp16: the model has diverged; train it again at a lower learning rate")
    return Grid(bits=bits, scale=scale, minimum=minimum, granularity=granularity, group_size=group_size)


def nearest_codes(
    values: npt.NDArray[np.floating[Any]], *, bits: int, scale: Halves, minimum: Halves
) -> npt.NDArray[np.uint8]:
    """Return the codes of the levels nearest to `values`; `scale` and `minimum` broadcast to them.

    Values beyond the grid get its first or last level; a tie goes to the even code.
    """
    step = scale.astype(np.float64)
    places = values.astype(np.float64)
    places -= minimum.astype(np.float64)
    places /= np.where(step > 0, step, 1.0)
    np.rint(places, out=places)
    np.clip(places, 0, 2**bits - 1, out=places)
    return places.astype(np.uint8)


def levels_of(codes: Codes, *, scale: Halves, minimum: Halves) -> Floats:
    """Return the float32 levels that codes name; code times fp16 step is exact in fp32: the sum is rounded once."""
    values = codes.astype(np.float32)
    values *= scale.astype(np.float32)
    values += minimum.astype(np.float32)
    return values


def round_to(weight: Floats, grid: Grid, mask: Mask | None = None) -> QuantizedTensor:
    """Round a (R, C) float32 matrix to the nearest levels of a grid; where a (R, C) boolean `mask` is False it is 0."""
    _check(weight, mask)
    scale, minimum = (grid.spread(pairs, weight.shape) for pairs in (grid.scale, grid.minimum))
    codes = nearest_codes(weight, bits=grid.bits, scale=scale, minimum=minimum)
    if mask is not None:
        codes[~mask] = 0
    return on_grid(grid, codes, mask)


def on_grid(grid: Grid, codes: Codes, mask: Mask | None = None) -> QuantizedTensor:
    """Return the matrix of these (R, C) codes on a grid: for who chose the codes in another way than the nearest."""
    return QuantizedTensor(
        bits=grid.bits,
        scale=grid.scale,
        minimum=grid.minimum,
        granularity=grid.granularity,
        group_size=grid.group_size,
        codes=codes,
        mask=mask,
    )


def quantize(
    weight: Floats, bits: int, granularity: Granularity = "row", group_size: int = 0, mask: Mask | None = None
) -> QuantizedTensor:
    """Quantize a (R, C) float32 matrix to the nearest levels of its own grid; arguments and errors as in `grid_of`.

    The error of a kept weight is at most scale / 2 (and one fp32 rounding); the others are exactly 0.
    """
    return round_to(weight, grid_of(weight, bits, granularity, group_size, mask), mask)


def quantize_rows(weight: Floats, bits: int, mask: Mask | None = None) -> QuantizedTensor:
    """Quantize a (R, C) float32 matrix with one minimum and one step a row, as `quantize` does."""
    return quantize(weight, bits, mask=mask)


def dequantize(quantized: QuantizedTensor) -> Floats:
    """Return the (R, C) float32 values."""
    shape = quantized.codes.shape
    scale, minimum = (quantized.spread(pairs, shape) for pairs in (quantized.scale, quantized.minimum))
    values = levels_of(quantized.codes, scale=scale, minimum=minimum)
    if quantized.mask is not None:
        values[~quantized.mask] = 0.0
    return values


def quantize_dequantize(weight: Floats, bits: int, mask: Mask | None = None) -> Floats:
    """Return the (R, C) float32 values that a matrix has after it was saved in `bits` bits a weight and loaded again."""
    return dequantize(quantize_rows(weight, bits, mask))


def relative_error(weight: Floats, quantized: Floats) -> float:
    """Return ||W - Q(W)|| / ||W|| (Frobenius, in float64); 0 for two zero matrices."""
    original = weight.astype(np.float64)
    size = float(np.linalg.norm(original))
    error = float(np.linalg.norm(original - quantized))
    if size == 0.0:
        return 0.0 if error == 0.0 else float("inf")
    return error / size
