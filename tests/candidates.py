"""Candidates of small models, pruned and rounded."""

from __future__ import annotations

import copy
from typing import Any, cast

from pipeline.budget import Ledger
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.uniform import apply as uniform
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks
from pipeline.models.pruned import shape_of
from pipeline.recipes import FP32_BITS, Uniform

NO_BENCH = cast(Bench, None)
"""For methods that use nothing beside the candidate."""


def untouched(model: Any) -> Candidate:
    """Return a candidate that no step has worked on, of a translation model or an encoder; its model is a copy."""
    size = shape_of(model.config)
    return Candidate(model=copy.deepcopy(model), size=size, trained_size=size, ledger=Ledger(), run={})


def compressed(model: Any, *, bits: int | None = None, sparsity: float = 0.0, **settings: Any) -> Candidate:
    """Return a candidate pruned by magnitude and then rounded; `settings` are those of `uniform`."""
    candidate = untouched(model)
    if sparsity:
        candidate.masks = magnitude_masks(compressible(candidate.model), sparsity)
        apply_masks(candidate.model, candidate.masks)
    uniform(candidate, Uniform(method="uniform", bits=bits or FP32_BITS, **settings), NO_BENCH)
    return candidate
