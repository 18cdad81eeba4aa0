"""What a training step minimises: the loss over the vocabulary in chunks, its gradient computed on the way forward.

The (positions, vocabulary) logits of a whole batch are the largest tensor of a small model. They are made a chunk at a
time, in the precision of the matmuls, and never kept: the gradients of hidden states and output weights are summed in
the same pass. Padding positions are left out before the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.corpora.batches import IGNORED, Batch
from pipeline.training.forward import Forward

_CHUNK_LOGITS = 1 << 22  # of them are in memory at once
_SMALLEST = 1e-38  # of probabilities, in whose logarithm the loss is read
_ROW_MULTIPLE = 128


class ChunkLoss(Protocol):
    """A loss of some rows of logits, with its gradient."""

    def __call__(self, logits: Tensor, mean_logits: Tensor, rows: slice, *, out: Tensor) -> tuple[Tensor, float]:
        """Return the summed loss () and a constant: the loss's gradient by the logits is `out` (n, V) less the constant.

        Logits (n, V) come in the matmuls' format and may be overwritten; their means (n,) over the vocabulary in fp32.
        """
        ...


def _multiple(dtype: torch.dtype) -> int:
    """Return what numbers of rows are rounded up to: oneDNN, which multiplies bf16, compiles a kernel for every new shape."""
    return _ROW_MULTIPLE if dtype == torch.bfloat16 else 1


def filled_rows(hidden: Tensor, index: Tensor) -> Tensor:
    """Return the rows `index` (n,) of hidden (R, d), and rows of 0 up to one of a few numbers of rows."""
    multiple = _multiple(hidden.dtype)
    rows = hidden.new_zeros((-(-len(index) // multiple) * multiple, hidden.shape[1]))
    torch.index_select(hidden, 0, index, out=rows[: len(index)])
    return rows


def logits_of(filled: Tensor, weight: Tensor, rows: slice) -> Tensor:
    """Return the logits of some of `filled_rows`, multiplied together with the filling behind them."""
    multiple = _multiple(filled.dtype)
    return (filled[rows.start : -(-rows.stop // multiple) * multiple] @ weight.t())[: rows.stop - rows.start]


class HeadLoss(torch.autograd.Function):
    """Sum over positions of a loss on ``hidden @ weight.T``, without keeping the logits.

    Label smoothing subtracts the same constant from every entry of the logits' gradient. It is left out of the large
    matrix and put into the two products instead, where it is a sum of rows.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, index: Tensor, chunk_loss: ChunkLoss) -> Tensor:
        """Return the summed loss of the rows `index` (n,) of hidden (R, d) against output weights (V, d)."""
        count, scored = len(index), filled_rows(hidden, index)
        filled, multiple = len(scored), _multiple(hidden.dtype)
        rows_at_once = max(1, _CHUNK_LOGITS // weight.shape[0] // multiple) * multiple
        means = (scored @ weight.mean(0)).float()
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        by_scored = torch.empty_like(scored)
        by_weight: Tensor | None = None
        constant = 0.0
        for start in range(0, filled, rows_at_once):
            rows = slice(start, min(start + rows_at_once, count))
            chunk = scored[start : start + rows_at_once]
            logits = chunk @ weight.t()
            real = rows.stop - rows.start
            gradient = torch.empty_like(logits)
            loss, constant = chunk_loss(logits[:real], means[rows], rows, out=gradient[:real])
            gradient[real:].zero_()
            total += loss
            torch.mm(gradient, weight, out=by_scored[start : start + rows_at_once])
            product = gradient.t() @ chunk
            # One chunk is the rule; the sum of several is rounded once, at its end.
            by_weight = product if by_weight is None else by_weight.float().add_(product)
        if by_weight is None:
            by_weight = torch.zeros_like(weight)
        if constant:
            by_scored.sub_(weight.sum(0), alpha=constant)
            by_weight.sub_(scored.sum(0), alpha=constant)
        by_weight = by_weight.to(weight.dtype)
        by_hidden = torch.zeros_like(hidden).index_copy_(0, index, by_scored[:count])
        ctx.save_for_backward(by_hidden, by_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward has summed."""
        by_hidden, by_weight = ctx.saved_tensors
        scale = float(outputs[0])  # as a tensor it would be rounded to the matmuls' format before it multiplies
        return by_hidden * scale, by_weight * scale, None, None


def softmax(logits: Tensor, target: Tensor, *, out: Tensor) -> Tensor:
    """Write the probabilities to `out` (n, V) and return each row's log-sum-exp (n,) in fp32.

    The latter is read off the target's logit and probability, which spares a pass over the vocabulary.
    """
    torch.softmax(logits, 1, out=out)
    column = target.unsqueeze(1)
    of_target = out.gather(1, column).squeeze(1).float().clamp_min_(_SMALLEST)
    return logits.gather(1, column).squeeze(1).float() - of_target.log_()


def smoothed_loss(logits: Tensor, target: Tensor, mean_logits: Tensor, normalisers: Tensor, smoothing: float) -> Tensor:
    """Return cross-entropy summed over rows, from logits (n, V), their means (n,) and log-sum-exps (n,)."""
    of_target = logits.gather(1, target.unsqueeze(1)).squeeze(1).float()
    return (normalisers - (1 - smoothing) * of_target - smoothing * mean_logits).sum()


def add_at(matrix: Tensor, columns: Tensor, value: float) -> None:
    """Add a value to one column (n,) of each row of a contiguous matrix (n, V) in place."""
    rows = torch.arange(len(columns), device=columns.device)
    # Not scatter_add_, which copies the whole matrix on a CPU.
    matrix.view(-1).index_add_(0, rows * matrix.shape[1] + columns, matrix.new_full((len(columns),), value))


def smoothed_cross_entropy(labels: Tensor, smoothing: float) -> ChunkLoss:
    """Return the chunk loss of cross-entropy against labels (N,) with label smoothing over the whole vocabulary."""

    def chunk_loss(logits: Tensor, mean_logits: Tensor, rows: slice, *, out: Tensor) -> tuple[Tensor, float]:
        target = labels[rows]
        normalisers = softmax(logits, target, out=out)
        loss = smoothed_loss(logits, target, mean_logits, normalisers, smoothing)
        add_at(out, target, -(1 - smoothing))
        return loss, smoothing / logits.shape[1]

    return chunk_loss


def head_loss(forward: Forward, batch: Batch, chunk_loss: ChunkLoss) -> Tensor:
    """Return the mean of `chunk_loss` over a batch's scored positions, in their order."""
    index = scored_positions(batch)
    total: Tensor = HeadLoss.apply(forward.states(batch), forward.output_weight, index, chunk_loss)
    return total / len(index)


def scored_positions(batch: Batch) -> Tensor:
    """Return which rows b x T + t of a batch's states have a label (n,)."""
    return (batch.labels.flatten() != IGNORED).nonzero().squeeze(1)


class Objective(Protocol):
    """A loss to minimise: mean over the batch's target tokens; what else it needs (a teacher, say) it holds."""

    def __call__(self, forward: Forward, batch: Batch, *, step: int) -> Tensor:
        """Return the mean loss a target token, a scalar with a gradient."""
        ...


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Label-smoothed cross-entropy, the mean over target tokens."""

    label_smoothing: float

    def __call__(self, forward: Forward, batch: Batch, *, step: int) -> Tensor:
        """Return the mean loss a target token of one batch."""
        labels = batch.labels.flatten()[scored_positions(batch)]
        return head_loss(forward, batch, smoothed_cross_entropy(labels, self.label_smoothing))
