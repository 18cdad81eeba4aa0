"""k-bit uniform min-max quantization of weight matrices, row by row.

What it does: every row of a matrix is covered by 2^k equally spaced levels from its minimum to its maximum, and each
weight becomes the number of its nearest level. A row costs 32 bits beside its codes: its minimum and its step, in fp16.
Both are rounded outwards (minimum down, step up) before the codes are chosen, so that the levels still span the row and
no weight is further than half a step from its level.
Source: Li et al. 2020, "Train Large, Then Compress" (arXiv 2002.11794), section 4: uniform quantization between minimum
and maximum, after training, weights and embeddings, activations in fp32. One pair a row instead of one a matrix.
When it helps: at 8 and 6 bits the loss hardly moves, at 4 bits little, and less the wider the model. It needs
no data and no training.
When not: at 3 bits the loss moves clearly, at 2 bits it collapses without retraining. A single outlier stretches its
row's step. Narrow rows pay for their fp16 pair: at 32 columns it adds a whole bit a weight. Nothing runs faster: the
weights are expanded to fp32 when the model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import StudyError

MIN_BITS, MAX_BITS = 2, 8

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class QuantizedTensor:
    """A (R, C) matrix in k bits: row r's value is minimum[r] + codes[r, c] * scale[r], or 0 where the mask is False."""

    bits: int
    codes: npt.NDArray[np.uint8]  # (R, C), below 2**bits, 0 where pruned
    scale: Halves  # (R,), the step between two levels; 0 for a constant row that fp16 holds exactly
    minimum: Halves  # (R,), the value of code 0
    mask: Mask | None = None  # (R, C), True where kept; None keeps everything


def check_bits(bits: int) -> None:
    """Raise StudyError unless `bits` is a whole number from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise StudyError(f"cannot quantize to {bits!r} bits; choose a whole number from {MIN_BITS} to {MAX_BITS}")


def _half_below(values: npt.NDArray[np.float64]) -> Halves:
    """Return the largest fp16 numbers that are not above `values` (float64)."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float16)
    below: Halves = np.where(nearest.astype(np.float64) > values, np.nextafter(nearest, np.float16(-np.inf)), nearest)
    return below


def _half_above(values: npt.NDArray[np.float64]) -> Halves:
    return -_half_below(-values)


def quantize_rows(weight: Floats, bits: int, mask: Mask | None = None) -> QuantizedTensor:
    """Quantize a (R, C) float32 matrix to `bits` bits, one minimum and one step a row.

    With a (R, C) boolean `mask` only the kept (True) weights are quantized, their range alone counts, and the others
    are exactly 0. The error of a kept weight is at most scale / 2 (and one fp32 rounding). StudyError on `bits` outside
    2..8 and on weights that are not finite or too large for fp16, which only a diverged model has.
    """
    check_bits(bits)
    if weight.ndim != 2 or weight.dtype != np.float32:
        raise ValueError(f"a float32 matrix is needed, not {weight.dtype} of shape {weight.shape}")
    if mask is not None and (mask.shape != weight.shape or mask.dtype != np.bool_):
        raise ValueError(f"the mask is {mask.dtype} of shape {mask.shape}, the matrix has shape {weight.shape}")
    if not np.isfinite(weight).all():
        raise StudyError("weights are not finite: the model has diverged; train it again at a lower learning rate")
    kept = np.ones_like(weight, dtype=np.bool_) if mask is None else mask
    empty = ~kept.any(axis=1)
    low = np.min(weight, axis=1, where=kept, initial=np.inf).astype(np.float64)
    high = np.max(weight, axis=1, where=kept, initial=-np.inf).astype(np.float64)
    low[empty] = high[empty] = 0.0

    levels = 2**bits - 1
    minimum = _half_below(low)
    start = minimum.astype(np.float64)
    # Measured from the rounded minimum and rounded up: the last level is never below the row's maximum. A spread too
    # small for fp16 gets the smallest subnormal step, never 0, so that the division below is safe.
    scale = _half_above((high - start) / levels)
    if not (np.isfinite(minimum).all() and np.isfinite(scale).all()):
        raise StudyError("weights too large for fp16: the model has diverged; train it again at a lower learning rate")

    step = scale.astype(np.float64)
    divisor = np.where(step > 0, step, 1.0)
    places = weight.astype(np.float64)
    places -= start[:, None]
    places /= divisor[:, None]
    np.rint(places, out=places)
    np.clip(places, 0, levels, out=places)
    codes = places.astype(np.uint8)
    if mask is not None:
        codes[~mask] = 0
    return QuantizedTensor(bits=bits, codes=codes, scale=scale, minimum=minimum, mask=mask)


def dequantize(quantized: QuantizedTensor) -> Floats:
    """Return the (R, C) float32 values; code times fp16 step is exact in fp32: the sum is rounded once."""
    values = quantized.codes.astype(np.float32)
    values *= quantized.scale.astype(np.float32)[:, None]
    values += quantized.minimum.astype(np.float32)[:, None]
    if quantized.mask is not None:
        values[~quantized.mask] = 0.0
    return values


def quantize_dequantize(weight: Floats, bits: int, mask: Mask | None = None) -> Floats:
    """Return the (R, C) float32 values that a matrix has after it was saved in `bits` bits and loaded again."""
    return dequantize(quantize_rows(weight, bits, mask))


def relative_error(weight: Floats, quantized: Floats) -> float:
    """Return ||W - Q(W)|| / ||W|| (Frobenius, in float64); 0 for two zero matrices."""
    original = weight.astype(np.float64)
    size = float(np.linalg.norm(original))
    error = float(np.linalg.norm(original - quantized))
    if size == 0.0:
        return 0.0 if error == 0.0 else float("inf")
    return error / size
