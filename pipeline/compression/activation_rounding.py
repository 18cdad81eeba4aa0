"""Inputs of linear layers rounded to k bits while the model computes, on ranges that were fixed beforehand.

The sums stay in fp32: what is simulated is the loss of precision of integer arithmetic, not its speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compression.candidate import ActivationRange
from pipeline.errors import StudyError
from pipeline.models.parts import parts_of

if TYPE_CHECKING:
    from pipeline.models.seq2seq import Model


def _outputs_input(model: Model) -> str:
    """Return the norm that makes the output projection's input: the decoder's own, or a post-norm decoder's very last."""
    last = len(model.model.decoder.layers) - 1
    own = hasattr(model.model.decoder, "layer_norm")
    return "model.decoder.layer_norm" if own else f"model.decoder.layers.{last}.final_layer_norm"


def range_of(low: float, high: float, bits: int) -> ActivationRange:
    """Return the range of 2^bits levels from `low` to `high`.

    Both of its numbers are fp32 values, which come back from a JSON file as they were. StudyError on bounds that are
    not finite.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise StudyError("activations are not finite: the model has diverged; train it again at a lower learning rate")
    minimum = np.float32(low)
    scale = np.float32((high - float(minimum)) / (2**bits - 1))
    return ActivationRange(bits=bits, minimum=float(minimum), scale=float(scale))


def round_tensor(inputs: Tensor, limits: ActivationRange) -> Tensor:
    """Return fp32 inputs of any shape on the range's levels: the nearest one, and the last one beyond either end."""
    if limits.scale == 0:
        return torch.full_like(inputs, limits.minimum)
    codes = torch.round((inputs - limits.minimum) / limits.scale).clamp_(0, 2**limits.bits - 1)
    return codes.mul_(limits.scale).add_(limits.minimum)


def round_inputs(model: Model, ranges: Mapping[str, ActivationRange]) -> None:
    """Make the linear layers of these names round their inputs from now on; the weights are left as they are.

    A translation model's output projection's input is rounded where it is made, by the decoder's last norm: losses are
    computed from there without a call of the projection. Names that are no linear layers of the model are a StudyError.
    """
    output = parts_of(model).output
    for layer, limits in ranges.items():
        try:
            module = model.get_submodule(layer)
        except AttributeError:
            module = None
        if not isinstance(module, nn.Linear):
            raise StudyError(
                f"a range of activations is for {layer}, which is no linear layer of the model; make the model again"
            )
        if layer == output:
            model.get_submodule(_outputs_input(model)).register_forward_hook(_RoundOutput(limits))
        else:
            module.register_forward_pre_hook(_RoundInput(limits))


def rounds_inputs(model: nn.Module) -> bool:
    """Tell whether a model rounds its inputs: an engine that takes its weights alone would compute something else."""
    hooks = (
        hook
        for module in model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    )
    return any(isinstance(hook, _RoundInput | _RoundOutput) for hook in hooks)


@dataclass(frozen=True)
class _RoundInput:
    limits: ActivationRange

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return round_tensor(inputs[0], self.limits), *inputs[1:]


@dataclass(frozen=True)
class _RoundOutput:
    limits: ActivationRange

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return round_tensor(output, self.limits)
