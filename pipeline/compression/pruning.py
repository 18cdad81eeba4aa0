"""Masks of unstructured pruning: which weights are pruned, how many, and over how many rounds.

torch.nn.utils.prune is not used: it replaces a parameter by a masked copy, which unties tied embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import StudyError
from pipeline.models.parameters import learnt_parameters


def compressible(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight matrices by name, in the model's order: every learnt 2-D parameter, tied ones once.

    Biases and norms are not among them: they stay in fp32.
    """
    return {name: parameter for name, parameter in learnt_parameters(model).items() if parameter.ndim == 2}


def kept_count(total: int, sparsity: float) -> int:
    """Return how many of `total` weights a tensor keeps at this sparsity: round(total * (1 - sparsity))."""
    if not 0 <= sparsity < 1:
        raise StudyError(f"sparsity {sparsity} is out of range; choose a fraction from 0 to below 1")
    return round(total * (1 - sparsity))


def sparsity_schedule(target: float, rounds: int, *, start: float = 0.0) -> list[float]:
    """Return `rounds` increasing sparsities from `start`, the last exactly `target`.

    Zhu & Gupta 2017, equation 1: s_i = target + (start - target) (1 - i / rounds)^3. Most goes early, where there is
    most to spare.
    """
    if not 0 < target < 1:
        raise StudyError(f"target sparsity {target} is out of range; choose a fraction between 0 and 1")
    if rounds < 1:
        raise StudyError(f"{rounds} pruning rounds; choose at least 1")
    return [target + (start - target) * (1 - done / rounds) ** 3 for done in range(1, rounds + 1)]


def _magnitude_mask(weight: Tensor, sparsity: float, previous: Tensor | None) -> Tensor:
    magnitudes = weight.detach().abs().reshape(-1).float().cpu().numpy()
    if not np.isfinite(magnitudes).all():
        raise StudyError("weights are not finite: the model has diverged; train it again at a lower learning rate")
    kept = kept_count(magnitudes.size, sparsity)
    if previous is not None:
        if previous.shape != weight.shape:
            raise ValueError(f"previous mask of shape {tuple(previous.shape)}, weight of shape {tuple(weight.shape)}")
        alive = previous.reshape(-1).cpu().numpy()
        kept = min(kept, int(alive.sum()))
        # Below every magnitude: a pruned weight is never chosen before a kept one, not even before a kept 0.
        magnitudes = np.where(alive, magnitudes, -1.0)
    if kept == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    threshold = np.partition(magnitudes, magnitudes.size - kept)[magnitudes.size - kept]
    mask = magnitudes > threshold
    # Ties at the threshold: the first ones in memory order stay, so that the count is exact and the choice repeatable.
    ties = np.flatnonzero(magnitudes == threshold)
    mask[ties[: kept - int(mask.sum())]] = True
    return torch.from_numpy(mask).reshape(weight.shape).to(weight.device)


def magnitude_masks(
    named_weights: Mapping[str, Tensor], sparsity: float, *, previous: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return a boolean mask a tensor, True where kept: its `kept_count` weights of largest magnitude.

    With `previous` masks nothing is ever un-pruned: a tensor that has fewer weights left keeps what it has.
    StudyError on weights that are not finite.
    """
    return {
        name: _magnitude_mask(weight, sparsity, None if previous is None else previous.get(name))
        for name, weight in named_weights.items()
    }


def global_masks(
    named_weights: Mapping[str, Tensor], sparsity: float, *, previous: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return boolean masks as `magnitude_masks` does, with one threshold for all tensors together."""
    flat = torch.cat([weight.detach().flatten() for weight in named_weights.values()])
    before = None if previous is None else torch.cat([previous[name].flatten() for name in named_weights])
    mask = _magnitude_mask(flat, sparsity, before)
    parts = mask.split([weight.numel() for weight in named_weights.values()])
    return {name: part.view(weight.shape) for (name, weight), part in zip(named_weights.items(), parts, strict=True)}


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the pruned weights of a model to 0 in place (to +0, so that files and memory agree bit by bit)."""
    for name, mask in masks.items():
        model.get_parameter(name).masked_fill_(~mask, 0.0)
