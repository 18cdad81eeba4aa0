"""Every weight of a matrix is rounded to the nearest of 2^k equally spaced levels.

What it does: what shares a grid (a row, a group of neighbouring columns of a row, or a whole matrix) is covered by
levels from its least to its greatest weight, and each weight becomes the number of its nearest level. The embedding,
which is also the output projection, can have bits of its own; norms and biases stay in fp32; pruned weights stay 0 and
widen no range.
Source: Li et al. 2020, "Train Large, Then Compress" (arXiv 2002.11794), section 4: uniform quantization between minimum
and maximum, after training, weights and embeddings, activations in fp32, one grid a matrix (granularity `tensor`).
When it helps: at 8 and 6 bits the loss hardly moves, at 4 bits little, and less the wider the model. It needs no data
and no training. At 4 bits and below a grid a row or a group is clearly better than one a matrix.
When not: at 3 bits the loss moves clearly, at 2 bits it collapses without retraining (`qat`). A single outlier
stretches its grid's step. Every grid costs 32 bits: rows of 32 columns pay a whole bit a weight, groups of 64 half a
bit.
"""

from __future__ import annotations

from pipeline.compression.bit_widths import bit_widths
from pipeline.compression.candidate import Bench, Candidate, put_on_grid
from pipeline.compression.pruning import compressible
from pipeline.compression.quantization import quantize
from pipeline.recipes import Uniform


def apply(candidate: Candidate, step: Uniform, bench: Bench) -> None:
    """Round the candidate's matrices; nothing is charged, for no data are used."""
    matrices = compressible(candidate.model)
    widths = bit_widths(matrices, bits=step.bits, embedding_bits=step.embedding_bits, keep=step.keep)
    for name, bits in widths.items():
        mask = candidate.masks.get(name)
        quantized = quantize(
            matrices[name].detach().cpu().numpy(),
            bits,
            step.granularity,
            step.group_size if step.granularity == "group" else 0,
            None if mask is None else mask.cpu().numpy(),
        )
        put_on_grid(candidate, name, quantized)
