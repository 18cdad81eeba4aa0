"""Unstructured magnitude pruning: the smallest weights become 0 and stay 0.

What it does: the weights of least magnitude are masked until the wanted share is gone, in each matrix on its own or in
all together; in one shot, or in rounds with finetuning (or distillation from the parent) after each.
Source: Han et al. 2015 (arXiv 1506.02626), pruning with retraining; the rounds' levels follow the cubic schedule of
Zhu & Gupta 2017 (arXiv 1710.01878), equation 1; Li et al. 2020 (arXiv 2002.11794), section 4, prunes like this to 90 %.
When it helps: half the weights go at little loss if there are steps left to recover, and wide models recover best; it
combines with quantization, as the kept weights alone are quantized.
When not: in one shot at 50 % and beyond it costs far more than quantization to the same size. A mask costs one bit a
weight, so that 50 % of 4-bit weights need as much room as 3-bit weights. Dense kernels run no faster.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.pruning import compressible, global_masks, magnitude_masks
from pipeline.compression.recovery import prune_and_recover
from pipeline.recipes import Magnitude


def apply(candidate: Candidate, step: Magnitude, bench: Bench) -> None:
    """Prune to the step's sparsity, and recover where it has rounds."""

    def choose(candidate: Candidate, sparsity: float, previous: dict[str, Tensor] | None) -> dict[str, Tensor]:
        weights = {name: weight.detach() for name, weight in compressible(candidate.model).items()}
        masks = magnitude_masks if step.scope == "matrix" else global_masks
        return masks(weights, sparsity, previous=previous)

    prune_and_recover(candidate, step, bench, choose)
