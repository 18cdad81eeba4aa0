"""Whole layers go, of a translation model as many from the encoder as from the decoder.

What it does: it keeps the first and the last layer of each side and, of those between, the most evenly spaced; where
one layer is left, it is the first. No data is looked at, and so none is paid for: measures of a layer's influence (1 -
cosine between its input and output: ShortGPT, arXiv 2403.03853) tell dozens of layers apart, where a study's models
have two to six a side. The shape that is left is a standard one.
Source: Shleifer and Rush 2020, Pre-trained Summarization Distillation (arXiv 2010.13002), shrink and finetune with
maximally spaced layers.
When it helps: for latency, which falls with the decoder's depth, and before finetuning or distillation: what is left
learns again much faster than a fresh model.
When not: without training afterwards: the layers that are left never saw each other's outputs. Where the embedding is
most of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compression.candidate import Bench, Candidate
from pipeline.models.parameters import stored_parameters
from pipeline.models.parts import parts_of
from pipeline.models.pruned import reshaped, shape_of
from pipeline.recipes import Layers, shape_after
from pipeline.size import SizeSpec

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def kept_layers(count: int, kept: int) -> list[int]:
    """Return which `kept` of `count` layers stay, counted from 0: first, last, and evenly between; halves round up."""
    if kept == 1:
        return [0]
    gaps = kept - 1
    return [(2 * number * (count - 1) + gaps) // (2 * gaps) for number in range(kept)]


def keep_layers(model: Model, size: SizeSpec) -> Model:
    """Return a new model of `size`, which is `model`'s own but for fewer layers."""
    kept = kept_layers(shape_of(model.config).num_layers, size.num_layers)
    layer = parts_of(model).layer
    weights = {}
    for name, parameter in stored_parameters(model).items():
        found = layer.fullmatch(name)
        if found is None:
            weights[name] = parameter
        elif int(found[2]) in kept:
            weights[f"{found[1]}{kept.index(int(found[2]))}{found[3]}"] = parameter
    return reshaped(model, size, weights)


def apply(candidate: Candidate, step: Layers, bench: Bench) -> None:
    """Remove `step.fraction` of each side's layers; nothing is charged, as no data is used."""
    size = shape_after(candidate.size, step)
    if size != candidate.size:
        candidate.model, candidate.size = keep_layers(candidate.model, size), size
