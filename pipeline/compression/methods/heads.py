"""Whole attention heads go, the same number in every attention.

What it does: in each self- and cross-attention by itself it removes the heads of smallest group magnitude: the squares
of a head's weights in q, k, v and the output projection, found by torch-pruning's dependency graph. The model's width
stays, so the heads together are narrower than it: a shape that transformers' configuration cannot say. The checkpoint
loads through pipeline.compression.formats.load_model; CTranslate2 decodes a translation model of it.
Source: Michel et al. 2019, Are Sixteen Heads Really Better than One (arXiv 1905.10650), for heads as the unit; Fang et
al. 2023, DepGraph (arXiv 2301.12900), Section 3.3, for the magnitude of what belongs together.
When it helps: with many heads, of which some do little, and long sentences, where attention's time grows fastest.
When not: without training afterwards, for heads of small models do not spare each other; where a checkpoint must load in
anybody's program (use width).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.channels import without_channels
from pipeline.models.parts import layers_named, parts_of
from pipeline.models.pruned import reshaped
from pipeline.recipes import Heads, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def keep_heads(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for fewer heads of the same `head_dim`."""
    queries = layers_named(model, parts_of(model).queries)
    return reshaped(model, size, without_channels(model, queries, kept=size.num_heads, block=size.head_dim))


def apply(candidate: Candidate, step: Heads, bench: Bench) -> None:
    """Remove `step.fraction` of each attention's heads; nothing is charged, as no data is used."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_heads(candidate.model, size), size
