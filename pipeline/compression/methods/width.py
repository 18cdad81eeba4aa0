"""Columns of the residual stream go, and with them heads, so that the shape that is left is a standard one.

placeholder
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.methods.heads import keep_heads
from pipeline.models.pruned import reshaped
from pipeline.recipes import Width, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model

_EMBEDDING = "model.shared.weight"
_READS = re.compile(r".+\.(?:[qkv]_proj|fc1)\.weight")  # (outputs, d): a column of the stream is a column
_WRITES = re.compile(r".+\.(?:out_proj|fc2)\.(?:weight|bias)")  # (d, inputs): a column of the stream is a row
_NORMS = re.compile(r".+layer_norm\.(?:weight|bias)")

HALVES = True
SCALE = True
NORMALISE = True


def stream_axis(name: str) -> int | None:
    """Return along which axis of a parameter the residual stream's columns lie; None where it does not touch them."""
    if name == _EMBEDDING or _READS.fullmatch(name):
        return 1
    return 0 if _WRITES.fullmatch(name) or _NORMS.fullmatch(name) else None


def column_importance(model: Model) -> Tensor:
    """Return how much every column of the residual stream carries, (d,) in float64."""
    parameters = dict(model.named_parameters())
    width = model.config.d_model
    total = torch.zeros(width, dtype=torch.float64)
    for name, parameter in parameters.items():
        axis = stream_axis(name)
        if axis is None or parameter.ndim == 1:
            continue
        norms = parameter.detach().cpu().double().norm(dim=1 - axis)
        total += norms / norms.mean() if NORMALISE else norms
    return total


def kept_columns(importance: Tensor, kept: int) -> Tensor:
    if not HALVES:
        return importance.argsort(descending=True, stable=True)[:kept].sort().values
    half = len(importance) // 2
    best = [part.argsort(descending=True, stable=True)[: kept // 2].sort().values for part in importance.split(half)]
    return torch.cat([best[0], best[1] + half])


def keep_width(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for fewer columns, and as many heads as fill them."""
    before = model.config.d_model
    narrower = keep_heads(model, SizeSpec(**(size.model_dump() | {"d_model": before})))
    columns = kept_columns(column_importance(narrower), size.d_model)
    weights = {}
    for name, parameter in narrower.named_parameters():
        axis = stream_axis(name)
        weights[name] = parameter if axis is None else parameter.index_select(axis, columns.to(parameter.device))
    if SCALE:
        weights[_EMBEDDING] = weights[_EMBEDDING] * (before / size.d_model) ** 0.5
    return reshaped(narrower, size, weights)


def apply(candidate: Candidate, step: Width, bench: Bench) -> None:
    """Remove `step.fraction` of the stream's columns and of each attention's heads; nothing is charged."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_width(candidate.model, size), size
