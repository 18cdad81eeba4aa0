"""Columns of the residual stream go, and with them heads, so that the shape that is left is a standard one.

What it does: first every attention loses heads, as by the method heads, until those left fill the new width; then one
set of columns is kept everywhere: in the embedding, all norms, and all projections that read or write the stream. A
column's importance is the norm of what each matrix writes to it or reads from it, every matrix counting alike. The FFN's
hidden columns stay. transformers computes sinusoidal positions for the new width, so a column's position changes its
frequency; to keep that change small, each column of the new width is the most important of the old ones nearest to it
in frequency. The embedding grows by the root of old over new width, as its scale in the model shrinks by it.
Source: Muralidharan et al. 2024, Compact Language Models via Pruning and Knowledge Distillation (Minitron, arXiv
2407.14679), for one index set along the stream; the importance is by weights here, not activations: no data is used.
When it helps: where the embedding is most of the model, since it is the only structured method that makes it smaller,
and before training or distillation, from which it learns faster than a fresh model.
When not: without training afterwards: the output is destroyed already when a quarter goes. With two heads, of which half
is the least that can go.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.heads import keep_heads
from pipeline.models.parameters import EMBEDDINGS, learnt_parameters, stored_parameters
from pipeline.models.pruned import reshaped
from pipeline.recipes import Width, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

_READS = re.compile(r".+\.(?:[qkv]_proj|fc1)\.weight")  # (outputs, d): a column of the stream is a column
_WRITES = re.compile(r".+\.(?:out_proj|fc2)\.(?:weight|bias)")  # (d, inputs): a column of the stream is a row
_NORMS = re.compile(r".+layer_norm\.(?:weight|bias)")


def stream_axis(name: str) -> int | None:
    """Return along which axis of a parameter the residual stream's columns lie; None where it does not touch them."""
    if name in EMBEDDINGS or name.endswith("embed_positions.weight") or _READS.fullmatch(name):
        return 1
    return 0 if _WRITES.fullmatch(name) or _NORMS.fullmatch(name) else None


def column_importance(model: Model) -> Tensor:
    """Return how much every column of the residual stream carries: (d,) in float64, with mean number of matrices.

    It is the sum over all matrices at the stream of the column's L2 norm, divided by that matrix's mean.
    """
    total = torch.zeros(model.config.d_model, dtype=torch.float64)
    for name, parameter in learnt_parameters(model).items():
        axis = stream_axis(name)
        if axis is not None and parameter.ndim == 2:
            norms = parameter.detach().cpu().double().norm(dim=1 - axis)
            total += norms / norms.mean().clamp_min(1e-30)
    return total


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
    before = model.config.d_model
    narrower = keep_heads(model, size.changed(d_model=before))
    columns = kept_columns(column_importance(narrower), size.d_model).to(model.device)
    weights = {}
    looked_up = {id(narrower.model.encoder.embed_tokens.weight), id(narrower.model.decoder.embed_tokens.weight)}
    for name, parameter in stored_parameters(narrower).items():
        axis = stream_axis(name)
        weights[name] = parameter if axis is None else parameter.index_select(axis, columns)
        if id(parameter) in looked_up and narrower.config.scale_embedding:
            weights[name] = weights[name] * math.sqrt(before / size.d_model)
    return reshaped(narrower, size, weights)


def apply(candidate: Candidate, step: Width, bench: Bench) -> None:
    """Remove `step.fraction` of the stream's columns and of each attention's heads; nothing is charged."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_width(candidate.model, size), size
