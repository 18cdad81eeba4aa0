"""Hidden columns of the feed-forward sublayers go, the same number in every layer.

What it does: in each layer by itself it removes the FFN columns of smallest group magnitude: the squares of a column's
weights in both matrices (its row of fc1, its column of fc2), found by torch-pruning's dependency graph. A ReLU column
whose weights are small adds little to the residual stream. The shape that is left is a standard one.
Source: Fang et al. 2023, DepGraph (arXiv 2301.12900), Section 3.3, group magnitude with p = 2.
When it helps: where FFNs are wide (two thirds of a layer's weights by default), and with training afterwards; a file
and a step get smaller on any engine, without sparse kernels.
When not: as the last step of a recipe: from a quarter of the columns on, the loss rises far more than with as many
bytes saved by quantization. It never touches attention or the embedding, which is most of a small model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.channels import without_channels
from pipeline.models.pruned import reshaped
from pipeline.recipes import Ffn, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def keep_ffn(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for a smaller `ffn_dim`."""
    layers = [
        f"model.{side}.layers.{number}.fc1" for side in ("encoder", "decoder") for number in range(size.num_layers)
    ]
    return reshaped(model, size, without_channels(model, layers, kept=size.ffn_dim))


def apply(candidate: Candidate, step: Ffn, bench: Bench) -> None:
    """Remove `step.fraction` of the FFN columns; nothing is charged, as no data is used."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_ffn(candidate.model, size), size
