"""Columns of the residual stream go, and with them heads, so that the shape that is left is a standard one.

What it does: first every attention loses heads, as by the method heads, until those left fill the new width; then one
set of columns is kept everywhere: in the embeddings, all norms, and all projections that read or write the stream. A
column's importance is the norm of what each matrix writes to it or reads from it, every matrix counting alike. The FFN's
hidden columns stay. transformers computes sinusoidal positions for the new width, so a column's position changes its
frequency; to keep that change small, each column of the new width is the most important of the old ones nearest to it
in frequency. Where positions are learned, as an encoder's, the most important columns of all stay. A translation
model's embedding grows by the root of old over new width, as its scale in the model shrinks by it; an encoder's is
normalised. A classifier's head is as wide as the stream: of its own columns, too, those of smallest magnitude go.
Source: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation (Minitron, arXiv
2407.14679), for one index set along the stream; the importance is by weights here, not activations: no data is used.
When it helps: where the embedding is most of the model, since it is the only structured method that makes it smaller,
and before training or distillation, from which it learns faster than a fresh model.
When not: without training afterwards: the output is destroyed already when a quarter goes. With two heads, of which half
is the least that can go.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.heads import keep_heads
from pipeline.models.parameters import learnt_parameters, stored_parameters
from pipeline.models.parts import parts_of
from pipeline.models.pruned import reshaped
from pipeline.recipes import Width, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def column_importance(model: Model) -> Tensor:
    """Return how much every column of the residual stream carries: (d,) in float64, with mean number of matrices.

    It is the sum over all matrices at the stream of the column's L2 norm, divided by that matrix's mean. A table of one
    row, which adds the same to every position, is none.
    """
    parts = parts_of(model)
    total = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    for name, parameter in learnt_parameters(model).items():
        axis = parts.stream_axis(name)
        if axis is not None and parameter.ndim == 2 and len(parameter) > 1:
            norms = parameter.detach().cpu().double().norm(dim=1 - axis)
            total += norms / norms.mean().clamp_min(1e-30)
    return total


def most(importance: Tensor, kept: int) -> Tensor:
    """Return which `kept` of the columns (d,) are most important, ascending; of equal ones the first."""
    return importance.argsort(descending=True, stable=True)[:kept].sort().values


def kept_columns(importance: Tensor, kept: int) -> Tensor:
    """Return which `kept` of the columns stay, ascending: the most important of each run of neighbours in frequency.

    The first half of the columns holds the positions' sines and the second their cosines, each from the highest
    frequency to the lowest, at any width; the i-th column of a new half comes out of the i-th of equally long runs.
    """
    half, runs = len(importance) // 2, kept // 2
    columns = []
    for start in (0, half):
        for number in range(runs):
            first, end = start + number * half // runs, start + (number + 1) * half // runs
            columns.append(first + int(importance[first:end].argmax()))
    return torch.tensor(columns)


def keep_width(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for fewer columns, and as many heads as fill them."""
    before, parts = model.config.hidden_size, parts_of(model)
    narrower = keep_heads(model, size.changed(d_model=before))
    choose = kept_columns if parts.sinusoids else most
    columns = choose(column_importance(narrower), size.d_model).to(model.device)
    weights: dict[str, Tensor] = {}
    looked_up = {id(narrower.get_submodule(table).weight) for table in parts.scaled}
    for name, parameter in stored_parameters(narrower).items():
        axis = parts.stream_axis(name)
        weights[name] = parameter if axis is None else parameter.index_select(axis, columns)
        if id(parameter) in looked_up and narrower.config.scale_embedding:
            weights[name] = weights[name] * math.sqrt(before / size.d_model)
    if parts.inner:
        _narrow_head(weights, *parts.inner, kept=size.d_model)
    return reshaped(narrower, size, weights)


def _narrow_head(weights: dict[str, Tensor], first: str, second: str, *, kept: int) -> None:
    """Leave `kept` columns between two linear layers in place: those of largest magnitude, as the method ffn counts it."""
    writes, reads = weights[f"{first}.weight"], weights[f"{second}.weight"]
    columns = most(writes.double().square().sum(1) + reads.double().square().sum(0), kept)
    for name in (f"{first}.weight", f"{first}.bias"):
        weights[name] = weights[name].index_select(0, columns)
    weights[f"{second}.weight"] = reads.index_select(1, columns)


def apply(candidate: Candidate, step: Width, bench: Bench) -> None:
    """Remove `step.fraction` of the stream's columns and of each attention's heads; nothing is charged."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_width(candidate.model, size), size
