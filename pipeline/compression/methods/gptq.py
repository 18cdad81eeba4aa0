"""GPTQ: weights rounded column by column, each column's error compensated in the columns that are still to come.

What it does: every row of a linear layer's matrix has its min-max grid, fixed beforehand. The columns are rounded to it
one after the other, and after each the weights to its right move so that the layer's output on a calibration set
changes least: by the Cholesky factor of the inverse of X^T X, whose diagonal is damped. Weights that are pruned stay 0,
and what that takes from the output is compensated like a rounding error. Layers follow in the model's order, encoder
first, a classifier's head last, each on the inputs that come out of those rounded before it. Tables are rounded to nearest
before all of them. So is a translation model's embedding, though it is the output projection as well: what would spare
the logits would spoil the lookups. A column whose input is 0 on the whole calibration set is rounded to nearest.
Charged: one pass over the calibration set a layer of encoder and decoder, one for a classifier's head, and the linear
algebra's FLOPs at the rate at which the size trains. That is an estimate: part of it is in fp64, on few columns at a
time, and slower than training.
Source: Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, with its blocks of columns; compensation: equation 2.
When it helps: at 4 bits and below, where rounding to nearest moves the loss; it needs a few hundred sentences, no
training, and makes the same file as rounding to nearest does.
When not: at 8 bits there is nothing left to gain. Most of a small model is its embedding, which gains nothing. At
2 bits the loss still moves clearly; there is qat for that.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.compression.bit_widths import bit_widths
from pipeline.compression.calibration_set import calibration_batches, charge_algebra, charge_passes
from pipeline.compression.candidate import Bench, Candidate, put_on_grid
from pipeline.compression.layer_inputs import input_hessians, weights_of_layers
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import (
    Floats,
    Mask,
    QuantizedTensor,
    grid_of,
    levels_of,
    nearest_codes,
    on_grid,
    quantize_rows,
)
from pipeline.errors import StudyError
from pipeline.models.parts import parts_of
from pipeline.recipes import Gptq

Doubles = npt.NDArray[np.float64]

_BLOCK = 64  # columns that are rounded before the rest is updated by one product of matrices


def inverse_factor(hessian: Doubles, damping: float) -> Doubles:
    """Return U (C, C), upper triangular, with U^T U the inverse of the damped Hessian (C, C).

    `damping`, as a share of the diagonal's mean, is added to the diagonal; a column that is all 0 counts as one that no
    other goes with. StudyError when the Hessian is not finite, or too nearly singular for so little damping.
    """
    from scipy.linalg import solve_triangular

    if not np.isfinite(hessian).all():
        raise StudyError("activations are not finite: the model has diverged; train it again at a lower learning rate")
    diagonal = np.diagonal(hessian)
    damped = hessian + np.diag(np.where(diagonal > 0, damping * diagonal.mean(), 1.0))
    try:
        # H = R R^T with R upper triangular is the Cholesky decomposition read from the end; U is R's inverse.
        factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        raise StudyError(
            f"gptq: damping {damping:g} is too little for inputs that are nearly dependent; raise it, or give more sentences"
        ) from None
    inverse: Doubles = solve_triangular(factor, np.eye(len(factor)), lower=False)
    return inverse


def gptq_rows(
    weight: Floats, hessian: Doubles, bits: int, mask: Mask | None = None, damping: float = 0.01
) -> QuantizedTensor:
    """Quantize a (R, C) float32 matrix for inputs with second moments X^T X (C, C), float64, up to a factor.

    One minimum and one step a row, those of `quantize_rows`; with a (R, C) boolean `mask` the weights where it is False
    become 0. StudyError as `grid_of` and `inverse_factor`; ValueError on a Hessian of another shape.
    """
    columns = weight.shape[1]
    if hessian.shape != (columns, columns):
        raise ValueError(f"the Hessian has shape {hessian.shape}, the matrix {weight.shape}")
    grid = grid_of(weight, bits, mask=mask)
    factor = inverse_factor(hessian, damping)
    rest = weight.T.astype(np.float64, order="C")  # (C, R): what is left to round, moved by the errors so far
    codes = np.zeros(rest.shape, dtype=np.uint8)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((stop - start, rest.shape[1]))
        for column in range(start, stop):
            chosen = nearest_codes(rest[column], bits=bits, scale=grid.scale, minimum=grid.minimum)
            values = levels_of(chosen, scale=grid.scale, minimum=grid.minimum)
            if mask is not None:
                chosen[~mask[:, column]] = 0
                values[~mask[:, column]] = 0.0
            codes[column] = chosen
            error = (rest[column] - values) / factor[column, column]
            rest[column + 1 : stop] -= np.outer(factor[column, column + 1 : stop], error)
            errors[column - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return on_grid(grid, np.ascontiguousarray(codes.T), mask)


def algebra_flops(rows: int, columns: int, positions: int) -> float:
    """Return the FLOPs of rounding a (R, C) matrix on so many positions: X^T X, its factor's inverse, the updates.

    2 N C^2, C^3 / 3 and C^3, and R C^2: every column moves those after it, half of all pairs, by a multiply-add a row.
    """
    return 2 * positions * columns**2 + 4 / 3 * columns**3 + rows * columns**2


def apply(candidate: Candidate, step: Gptq, bench: Bench) -> None:
    """Quantize the candidate's matrices layer by layer, and charge the passes over the calibration set."""
    model = candidate.model
    bits = bit_widths(compressible(model), bits=step.bits, embedding_bits=step.embedding_bits, keep=step.keep)
    if not bits:
        return
    parts = parts_of(model)
    layers = {
        layer: weight for layer, weight in weights_of_layers(model).items() if layer != parts.output and weight in bits
    }

    def mask_of(name: str) -> Mask | None:
        return candidate.masks[name].cpu().numpy() if name in candidate.masks else None

    def weight_of(name: str) -> Floats:
        return model.get_parameter(name).detach().cpu().numpy()

    for name in (name for name in bits if name not in layers.values()):
        put_on_grid(candidate, name, quantize_rows(weight_of(name), bits[name], mask_of(name)))
    if not layers:
        return
    batches = calibration_batches(bench, step.sentences)
    sources, targets = sum(batch.source_tokens for batch in batches), sum(batch.target_tokens for batch in batches)
    flops = 0.0
    blocks = list(dict.fromkeys(parts.block_of(layer) for layer in layers))
    for block in blocks:
        hessians = input_hessians(model, batches, within=block)
        for layer, name in layers.items():
            if parts.block_of(layer) != block:
                continue
            weight = weight_of(name)
            hessian = hessians[name].cpu().numpy()
            put_on_grid(candidate, name, gptq_rows(weight, hessian, bits[name], mask_of(name), step.damping))
            rows, columns = weight.shape
            flops += algebra_flops(rows, columns, sources if parts.reads_source(layer) else targets)
    charge_passes(candidate, bench, batches, passes=len(blocks))
    charge_algebra(candidate, bench, flops)
