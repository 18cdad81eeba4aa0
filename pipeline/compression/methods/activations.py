"""Activations in k bits: every linear layer's input is rounded to a range that a calibration set has fixed.

What it does: the smallest and the largest input of each linear layer, the output projection among them, on some
training sentences span 2^k levels; from then on inputs are rounded to the nearest level, and those outside to the last
one. The ranges are stored with the weights. The weights are as the earlier steps left them: on their grid, if they were
quantized. Embeddings, norms, softmax and the residual stream stay in fp32, and so do all sums.
Source: Jacob et al. 2018 (arXiv 1712.05877), section 2.1, affine levels with one pair a tensor; static ranges after
training: Krishnamoorthi 2018 (arXiv 1806.08342), section 3.1.3. Li et al. 2020 keep activations in fp32.
When it helps: to know before deployment whether weights and activations in 8 bits, which is what integer hardware
multiplies, cost quality. At 8 bits they cost little.
When not: at 4 bits a range from minimum to maximum is too coarse, as single inputs stretch it. The model gets no
smaller, and nothing runs faster here: the rounding is simulated in fp32. Sentences unlike the calibration set are cut.
"""

from __future__ import annotations

from pipeline.compression.activation_rounding import range_of, round_inputs
from pipeline.compression.calibration_set import calibration_batches, charge_passes
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.layer_inputs import input_ranges
from pipeline.recipes import FP32_BITS, Activations


def apply(candidate: Candidate, step: Activations, bench: Bench) -> None:
    """Fix the ranges, note them as the candidate's activations, and make its model round to them."""
    if step.bits == FP32_BITS:
        return
    batches = calibration_batches(bench, step.sentences)
    charge_passes(candidate, bench, batches)
    ranges = {
        layer: range_of(low, high, step.bits) for layer, (low, high) in input_ranges(candidate.model, batches).items()
    }
    candidate.activations = ranges
    round_inputs(candidate.model, ranges)
