"""Hidden columns of the feed-forward sublayers go, the same number in every layer.

What it does: in each layer by itself it removes the FFN columns of smallest group magnitude: the squares of a column's
weights in both matrices (its row of the first, its column of the second), found by torch-pruning's dependency graph. A ReLU column
whose weights are small adds little to the residual stream. The shape that is left is a standard one.
Source: Fang et al. 2023, DepGraph (arXiv 2301.12900), Section 3.3, group magnitude with p = 2.
When it helps: where FFNs are wide; of the structured methods it harms least at the same fraction, and it makes every
engine faster, without sparse kernels.
When not: for bytes alone: 8-bit quantization saves three quarters of them at next to no loss. Where the embedding is
most of the model, which it leaves as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.channels import without_channels
from pipeline.models.parts import layers_named, parts_of
from pipeline.models.pruned import reshaped
from pipeline.recipes import Ffn, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def keep_ffn(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for a smaller `ffn_dim`."""
    layers = layers_named(model, parts_of(model).hidden)
    return reshaped(model, size, without_channels(model, layers, kept=size.ffn_dim))


def apply(candidate: Candidate, step: Ffn, bench: Bench) -> None:
    """Remove `step.fraction` of the FFN columns; nothing is charged, as no data is used."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_ffn(candidate.model, size), size
