"""All of a model's weights in one flat fp32 tensor: one optimizer step, one norm, one cast, one all-reduce.

The model's own parameters become views of it, so that saving, validating and masking go on as ever. Training computes
with leaves: copies in the precision of the matmuls, where weights that are multiplied by the same input lie side by
side and are one leaf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from pipeline.models.parameters import learnt_parameters


@dataclass(frozen=True)
class Leaf:
    """Parameters that are used as one tensor, side by side; a `precise` one is alone and stays fp32 whatever the matmuls run in."""

    names: tuple[str, ...]
    precise: bool = False
    rate: float = 1.0  # of the learning rate


class FlatWeights:
    """The fp32 weights (P,), their gradient (P,), and the leaves that a forward pass differentiates."""

    def __init__(self, model: nn.Module, leaves: Sequence[Leaf], *, dtype: torch.dtype) -> None:
        """Move the parameters of `model` into one tensor, in the order of `leaves`, which name each of them once."""
        parameters = learnt_parameters(model)
        named = [name for leaf in leaves for name in leaf.names]
        if sorted(named) != sorted(parameters):
            raise ValueError(f"leaves and parameters differ in {sorted(set(named) ^ set(parameters)) or 'repetitions'}")
        # Precise leaves last: the rest is cast in one go. Then what the optimizer treats alike lies together.
        ordered = sorted(leaves, key=lambda leaf: (leaf.precise, parameters[leaf.names[0]].ndim < 2, leaf.rate))
        device = next(model.parameters()).device
        total = sum(parameter.numel() for parameter in parameters.values())
        self.master = torch.empty(total, dtype=torch.float32, device=device)
        self.latent = self.master
        """What the optimizer changes (P,): the weights themselves, unless `part_latent` was called."""
        self.gradient = torch.zeros_like(self.master)
        self.shapes: dict[str, torch.Size] = {}
        """The parameters' shapes by name, in the order that they lie in."""
        self._spans: dict[str, slice] = {}
        start = 0
        for leaf in ordered:
            for name in leaf.names:
                parameter = parameters[name]
                self._spans[name] = slice(start, start + parameter.numel())
                home = self.master[self._spans[name]]
                home.copy_(parameter.detach().flatten())
                parameter.data = home.view(parameter.shape)
                self.shapes[name] = parameter.shape
                start = self._spans[name].stop
        self._rough = sum(parameters[name].numel() for leaf in ordered if not leaf.precise for name in leaf.names)
        self._cast = self.master[: self._rough].to(dtype)
        self._leaves: dict[str, Tensor] = {}
        for leaf in ordered:
            first = leaf.names[0]
            if leaf.precise:
                self._leaves[first] = parameters[first]
                continue
            span = slice(self._spans[first].start, self._spans[leaf.names[-1]].stop)
            shape = (sum(parameters[name].shape[0] for name in leaf.names), *parameters[first].shape[1:])
            self._leaves[first] = self._cast[span].view(shape).detach().requires_grad_()
        self._lookups: dict[str, Tensor] = {}
        self._groups: list[tuple[bool, float, nn.Parameter]] = []  # decayed or not, rate, weights
        for (decayed, rate), alike in groupby(
            ordered, key=lambda leaf: (parameters[leaf.names[0]].ndim >= 2, leaf.rate)
        ):
            members = [name for leaf in alike for name in leaf.names]
            span = slice(self._spans[members[0]].start, self._spans[members[-1]].stop)
            trained = nn.Parameter(self.master[span])
            trained.grad = self.gradient[span]
            self._groups.append((decayed, rate, trained))

    def __getitem__(self, name: str) -> Tensor:
        """Return the leaf whose first parameter has this name."""
        return self._leaves[name]

    def lookup(self, name: str) -> Tensor:
        """Return a second leaf of one parameter, in fp32: an embedding is looked up exactly, and its gradient summed exactly."""
        if name not in self._lookups:
            shape = self._leaves[name].shape
            self._lookups[name] = self.master[self._spans[name]].view(shape).detach().requires_grad_()
        return self._lookups[name]

    def adamw(self, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
        """Return fused AdamW (betas 0.9, 0.98) on the flat weights; vectors (biases, norms) are not decayed.

        Each group carries its `rate_factor`, for whoever sets the learning rate anew.
        """
        groups = [
            {
                "params": [trained],
                "lr": learning_rate * rate,
                "rate_factor": rate,
                "weight_decay": weight_decay if decayed else 0.0,
            }
            for decayed, rate, trained in self._groups
        ]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=True)

    @torch.no_grad()
    def part_latent(self) -> None:
        """Give the optimizer weights of its own to change; the next call changes nothing.

        Gradients by the weights move the latent ones, and whoever asked makes the weights from these after every step.
        Source: the straight-through estimator, Bengio et al. 2013 (arXiv 1308.3432), section 3.
        """
        if self.latent is not self.master:
            return
        self.latent = self.master.clone()
        trained = [weights for *_, weights in self._groups]
        for weights, part in zip(trained, self.latent.split([weights.numel() for weights in trained]), strict=True):
            weights.data = part

    @torch.no_grad()
    def gather_gradient(self, *, add: bool = False) -> None:
        """Move the leaves' gradients to the flat one, or `add` them to it; a leaf that got none counts as 0.

        Micro-batches are added up here, in fp32: a sum in the leaves would be rounded to the matmuls' format every time.
        """
        for name, leaf in self._leaves.items():
            part = self._part(self.gradient, name, leaf)
            if leaf.grad is None and not add:
                part.zero_()
            elif leaf.grad is not None:
                (part.add_ if add else part.copy_)(leaf.grad)
                leaf.grad = None
        for name, leaf in self._lookups.items():
            if leaf.grad is not None:
                self._part(self.gradient, name, leaf).add_(leaf.grad)
                leaf.grad = None

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a tensor (P,) laid out as the weights are, by parameter name, flat."""
        return {name: flat[span] for name, span in self._spans.items()}

    def _part(self, flat: Tensor, name: str, leaf: Tensor) -> Tensor:
        start = self._spans[name].start
        return flat[start : start + leaf.numel()].view(leaf.shape)

    @torch.no_grad()
    def clip(self, norm: float) -> Tensor:
        """Scale the flat gradient to at most this norm; return the norm it had."""
        return nn.utils.clip_grad_norm_([trained for *_, trained in self._groups], norm, foreach=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the fp32 weights to the leaves; due whenever the weights have changed."""
        self._cast.copy_(self.master[: self._rough])

    @torch.no_grad()
    def flat_mask(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Return masks by parameter name as one tensor (P,) of 0 and 1 over all weights."""
        flat = torch.ones_like(self.master)
        for name, mask in masks.items():
            flat[self._spans[name]] = mask.flatten().to(flat.dtype)
        return flat
