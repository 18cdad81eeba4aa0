"""What a training step minimises: the loss over the vocabulary in chunks, its gradient computed on the way forward.

The (positions, vocabulary) logits of a whole batch are the largest tensor of a small model. They are made a chunk at a
time, in the precision of the matmuls, and never kept: the gradients of hidden states and output weights are summed in
the same pass. Padding positions are left out before the projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pipeline.corpora.batches import Batch

CHUNK_POSITIONS = 512

ChunkLoss = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
"""(fp32 logits (n, V), rows) -> (summed loss (), its gradient by the logits (n, V)); may overwrite the logits."""


class HeadLoss(torch.autograd.Function):
    """Sum over positions of a loss on ``hidden @ weight.T``, without keeping the logits."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, chunk_loss: ChunkLoss) -> torch.Tensor:
        """Return the summed loss of hidden (N, d) against output weights (V, d)."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, hidden.shape[0], CHUNK_POSITIONS):
            rows = slice(start, start + CHUNK_POSITIONS)
            loss, gradient = chunk_loss((hidden[rows] @ weight.t()).float(), rows)
            total += loss
            gradient = gradient.to(hidden.dtype)
            hidden_gradient[rows] = gradient @ weight
            weight_gradient += gradient.t() @ hidden[rows]
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Scale the gradients that forward has summed."""
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * outputs[0], (weight_gradient * outputs[0]).to(hidden_gradient.dtype), None


def smoothed_cross_entropy(labels: torch.Tensor, smoothing: float) -> ChunkLoss:
    """Return the chunk loss of cross-entropy against labels (N,) with label smoothing over the whole vocabulary."""

    def chunk_loss(logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        target = labels[rows].unsqueeze(1)
        vocabulary = logits.shape[1]
        normaliser = torch.logsumexp(logits, dim=1, keepdim=True)
        loss = (normaliser - (1 - smoothing) * logits.gather(1, target)).sum() - smoothing * logits.mean(1).sum()
        gradient = logits.sub_(normaliser).exp_()
        if smoothing:
            gradient.sub_(smoothing / vocabulary)
        gradient.scatter_add_(1, target, torch.full_like(target, -(1 - smoothing), dtype=gradient.dtype))
        return loss, gradient

    return chunk_loss


def decoder_states(model: Any, batch: Batch) -> torch.Tensor:
    """Return the decoder's final hidden states (B, T, d) of a batch."""
    return model.model(
        input_ids=batch.source,
        attention_mask=batch.source_mask,
        decoder_input_ids=batch.decoder_input,
        use_cache=False,
    )[0]


def matmul_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the format in which autocast would multiply `tensor` here."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


def head_loss(model: Any, hidden: torch.Tensor, chunk_loss: ChunkLoss) -> torch.Tensor:
    """Return the mean of `chunk_loss` over hidden states (N, d), projected in the precision of the matmuls."""
    dtype = matmul_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        total: torch.Tensor = HeadLoss.apply(hidden.to(dtype), model.lm_head.weight.to(dtype), chunk_loss)
    return total / hidden.shape[0]


class Objective(Protocol):
    """A loss to minimise: mean over the batch's target tokens; what else it needs (a teacher, say) it holds."""

    def __call__(self, model: Any, batch: Batch, *, step: int) -> torch.Tensor:
        """Return the mean loss a target token, a scalar with a gradient."""
        ...


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Label-smoothed cross-entropy, the mean over target tokens."""

    label_smoothing: float

    def __call__(self, model: Any, batch: Batch, *, step: int) -> torch.Tensor:
        """Return the mean loss a target token of one batch."""
        kept = batch.labels != -100
        chunk = smoothed_cross_entropy(batch.labels[kept], self.label_smoothing)
        return head_loss(model, decoder_states(model, batch)[kept], chunk)
