"""Candidates of small models, pruned and rounded."""

from __future__ import annotations

import copy
from typing import Any, cast

from transformers.models.m2m_100 import M2M100ForConditionalGeneration

from pipeline.budget import Ledger
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.uniform import apply as uniform
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.recipes import FP32_BITS, Uniform
from pipeline.size import SizeSpec

NO_BENCH = cast(Bench, None)
"""For methods that use nothing beside the candidate."""


def untouched(model: M2M100ForConditionalGeneration) -> Candidate:
    """Return a candidate that no step has worked on; its model is a copy."""
    config = model.config
    size = SizeSpec(
        d_model=config.d_model,
        num_layers=config.encoder_layers,
        num_heads=config.encoder_attention_heads,
        ffn_dim=config.encoder_ffn_dim,
    )
    return Candidate(model=copy.deepcopy(model), size=size, trained_size=size, ledger=Ledger(), run={})


def compressed(
    model: M2M100ForConditionalGeneration, *, bits: int | None = None, sparsity: float = 0.0, **settings: Any
) -> Candidate:
    """Return a candidate pruned by magnitude and then rounded; `settings` are those of `uniform`."""
    candidate = untouched(model)
    if sparsity:
        candidate.masks = magnitude_masks(compressible(candidate.model), sparsity)
        apply_masks(candidate.model, candidate.masks)
    uniform(candidate, Uniform(method="uniform", bits=bits or FP32_BITS, **settings), NO_BENCH)
    return candidate
