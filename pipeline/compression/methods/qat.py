"""Quantization-aware finetuning: training with the weights rounded on the way forward.

What it does: after every step each matrix is rounded row by row to the k-bit grid between its minimum and its maximum,
and the network computes, is validated and is saved with the rounded weights; the gradient by them moves latent fp32
weights, which add up what is too small for the grid. Pruned weights stay 0 and count in no row's range.
Source: the straight-through estimator of Bengio et al. 2013 (arXiv 1308.3432), section 3; training as if quantized:
Jacob et al. 2018 (arXiv 1712.05877), section 3.
When it helps: at 2 and 3 bits, where weights that never saw their grid lose clearly when they are rounded to it.
When not: at 6 and 8 bits rounding alone loses next to nothing and needs no training. A step takes longer than one of
plain finetuning, so that a budget pays for fewer.
"""

from __future__ import annotations

from functools import partial

import torch

from pipeline.compression.bit_widths import bit_widths
from pipeline.compression.candidate import Bench, Candidate, put_on_grid
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import quantize_rows
from pipeline.compression.recovery import recover
from pipeline.compression.rounding import RowRounding
from pipeline.recipes import Qat
from pipeline.training.weights import FlatWeights


@torch.no_grad()
def quantize_latent(candidate: Candidate, weights: FlatWeights, bits: dict[str, int]) -> None:
    """Quantize the matrices named in `bits` from the latent weights that trained; the errors are theirs."""
    latent = weights.by_name(weights.latent)
    for name, width in bits.items():
        parameter = candidate.model.get_parameter(name)
        parameter.copy_(latent[name].view(parameter.shape))
        mask = candidate.masks.get(name)
        values = parameter.detach().cpu().numpy()
        put_on_grid(candidate, name, quantize_rows(values, width, None if mask is None else mask.cpu().numpy()))


def apply(candidate: Candidate, step: Qat, bench: Bench) -> None:
    """Train on the step's share of the recovery budget, and quantize what came out."""
    matrices = compressible(candidate.model)
    bits = bit_widths(matrices, bits=step.bits, embedding_bits=step.embedding_bits, keep=step.keep)
    if not bits:
        return
    state = recover(candidate, step, bench, projection=partial(RowRounding, bits=bits))
    if state is not None:
        quantize_latent(candidate, state.forward.weights, bits)
