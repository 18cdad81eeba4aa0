"""Wanda: the weights go whose magnitude, times how strong their input is, is smallest in each row.

What it does: |W_ij| ||X_j|| scores a weight by its size and by the norm of the input that it multiplies, over a
calibration set; in every row of a linear layer's matrix the lowest scores are masked, the same share of each row. With
rounds it prunes a little, trains with the masks held, and scores what is left on the inputs of then. A translation
model's embedding is scored as the output projection, by the norms of the decoder's final states; that it is looked up
in, too, does not count. Tables that are looked up alone, as all of a classifier's, multiply no input and go by
magnitude. Scores of tables are compared in the whole matrix: rows are words, and the words of a vocabulary do not spare
equally much. Charged: a pass over the calibration set a round.
Source: Sun et al. 2023 (arXiv 2306.11695), equation 1, compared in each row (section 3), where embeddings are not pruned;
the rounds' levels as in pipeline/compression/pruning.py.
When it helps: in one shot, where nothing can be trained, and the more the higher the sparsity: inputs of different
strength mislead magnitudes.
When not: at 30 % magnitudes do as well, and with training after it, what was chosen matters less. A row that has no
weights to spare loses as many as one that has. Masks cost a bit a weight, and dense kernels run no faster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from pipeline.compression.calibration_set import calibration_batches, charge_passes
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.layer_inputs import input_norms
from pipeline.compression.pruning import compressible, kept_count
from pipeline.compression.recovery import prune_and_recover
from pipeline.errors import StudyError
from pipeline.models.parameters import EMBEDDINGS
from pipeline.recipes import Wanda


def _mask(weight: Tensor, norms: Tensor, sparsity: float, previous: Tensor | None, *, whole: bool) -> Tensor:
    scores = weight.detach().abs().double() * norms
    if not torch.isfinite(scores).all():
        raise StudyError(
            "weights or activations are not finite: the model has diverged; train it again at a lower learning rate"
        )
    if previous is not None:
        # Below every score: a pruned weight is never chosen before a kept one, not even before one without any input.
        scores.masked_fill_(~previous, -1.0)
    compared = scores.reshape(1, -1) if whole else scores
    # Ties: the first ones stay, so that the count is exact and the choice repeatable.
    order = compared.sort(dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(compared, dtype=torch.bool)
    mask.scatter_(1, order[:, : kept_count(compared.shape[1], sparsity)], True)
    mask = mask.view(weight.shape)
    return mask if previous is None else mask & previous


def wanda_masks(
    named_weights: Mapping[str, Tensor],
    input_norms: Mapping[str, Tensor],
    sparsity: float,
    *,
    previous: Mapping[str, Tensor] | None = None,
    whole: Collection[str] = (),
) -> dict[str, Tensor]:
    """Return a boolean mask a (R, C) matrix, True where kept: in each row the `kept_count` of C weights of largest score.

    `input_norms` has the norm ||X_j|| of each matrix's inputs (C,); the matrices in `whole` are compared as one row of
    R C. With `previous` masks nothing is ever un-pruned, and a row that has fewer weights left keeps what it has.
    StudyError on weights or norms that are not finite.
    """
    return {
        name: _mask(
            weight, input_norms[name], sparsity, None if previous is None else previous.get(name), whole=name in whole
        )
        for name, weight in named_weights.items()
    }


def apply(candidate: Candidate, step: Wanda, bench: Bench) -> None:
    """Prune to the step's sparsity, and recover where it has rounds."""
    if step.sparsity == 0:
        return
    batches = calibration_batches(bench, step.sentences)
    # All passes are paid before the first step of training, so that the rest of the budget is counted out without them.
    charge_passes(candidate, bench, batches, passes=step.rounds if step.rounds and bench.share else 1)

    def choose(candidate: Candidate, sparsity: float, previous: dict[str, Tensor] | None) -> dict[str, Tensor]:
        matrices = compressible(candidate.model)
        norms = input_norms(candidate.model, batches)
        tables = matrices.keys() - norms.keys()  # looked up, and nothing else
        norms |= {name: torch.ones_like(matrices[name][0], dtype=torch.float64) for name in tables}
        return wanda_masks(matrices, norms, sparsity, previous=previous, whole=EMBEDDINGS | tables)

    prune_and_recover(candidate, step, bench, choose)
