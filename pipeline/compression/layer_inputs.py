"""What goes into every linear layer of a model on a calibration set, summed up: norms, second moments, ranges.

Padding is left out. A translation model's output projection is a linear layer like the others; its weight is the
embedding's, so that what is kept by weight stands for it under `model.shared.weight`. A classifier's head reads one
position a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.corpora.batches import IGNORED, Batch
from pipeline.models.architectures import is_encoder
from pipeline.models.parts import parts_of

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def weights_of_layers(model: nn.Module) -> dict[str, str]:
    """Return the name of the weight of every linear layer, by the layer's name, in the model's order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: names[id(module.weight)] for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@torch.no_grad()
def observe_inputs(
    model: Model, batches: Iterable[Batch], observe: Callable[[str, Tensor], None], *, within: str = ""
) -> None:
    """Run the model on batches and call `observe(layer, inputs)` with each linear layer's inputs (N, C), without padding.

    `within`: only layers whose names begin with it. Without dropout, in fp32, and without logits over the vocabulary; the
    model's training mode is left as it was.
    """
    parts = parts_of(model)
    real: dict[bool, Tensor] = {}  # (B, S) source positions and (B, T) labels of the present batch

    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        source = parts.reads_source(layer)

        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = real[source]
            observe(layer, inputs[0].view(*rows.shape, -1)[rows])

        return look

    layers = [layer for layer in weights_of_layers(model) if layer.startswith(within)]
    hooked = [layer for layer in layers if layer != parts.output]
    handles = [model.get_submodule(layer).register_forward_pre_hook(hook(layer)) for layer in hooked]
    training = model.training
    model.eval()
    try:
        for batch in (batch.to(model.device) for batch in batches):
            real[True], real[False] = batch.source_mask.bool(), batch.labels != IGNORED
            source = {"input_ids": batch.source, "attention_mask": batch.source_mask}
            if is_encoder(model.config):
                model(**source)
                continue
            hidden = model.model(**source, decoder_input_ids=batch.decoder_input, use_cache=False)[0]
            if parts.output in layers:
                observe(parts.output, hidden[real[False]])
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def input_norms(model: Model, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return ||X_j|| over all positions of each column j (C,), float64, by name of the layer's weight."""
    weights = weights_of_layers(model)
    squares: dict[str, Tensor] = {}

    def observe(layer: str, inputs: Tensor) -> None:
        found = inputs.double().square().sum(dim=0)
        squares[weights[layer]] = squares[weights[layer]] + found if weights[layer] in squares else found

    observe_inputs(model, batches, observe)
    return {name: total.sqrt() for name, total in squares.items()}


def input_hessians(model: Model, batches: Iterable[Batch], *, within: str = "") -> dict[str, Tensor]:
    """Return X^T X (C, C), float64, by name of the layer's weight, of the layers whose names begin with `within`."""
    weights = weights_of_layers(model)
    moments: dict[str, Tensor] = {}

    def observe(layer: str, inputs: Tensor) -> None:
        precise = inputs.double()
        found = precise.T @ precise
        moments[weights[layer]] = moments[weights[layer]].add_(found) if weights[layer] in moments else found

    observe_inputs(model, batches, observe, within=within)
    return moments


def input_ranges(model: Model, batches: Iterable[Batch]) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest input of every linear layer, by the layer's name."""
    ranges: dict[str, tuple[float, float]] = {}

    def observe(layer: str, inputs: Tensor) -> None:
        low, high = (float(bound) for bound in inputs.aminmax())
        before = ranges.get(layer, (low, high))
        ranges[layer] = (min(low, before[0]), max(high, before[1]))

    observe_inputs(model, batches, observe)
    return ranges
