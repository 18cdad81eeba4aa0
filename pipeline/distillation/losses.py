"""Word-level distillation: cross-entropy mixed with a divergence from the teacher's distribution.

What it does: at every position of a target the student is drawn to the teacher's distribution over the vocabulary as
well as to the token that stands there: (1 - alpha) CE + alpha T^2 KL, forward (teacher || student) or reverse, at
temperature T. The teacher reads the same batch, and its pass is charged.
Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, Section 2; Kim and Rush 2016, Section 3.1;
Blakeney et al. 2022 (0.1 CE + 0.9 T^2 KL at T = 4 there).
When it helps: when the teacher is clearly better and its forward pass is cheap beside the student's update.
When not: when the teacher's cost, charged in full, buys the student more steps instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.corpora.batches import Batch
from pipeline.training.forward import Forward
from pipeline.training.objectives import (
    ChunkLoss,
    add_at,
    filled_rows,
    head_loss,
    logits_of,
    scored_positions,
    smoothed_cross_entropy,
    smoothed_loss,
    softmax,
)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T^2 KL(teacher || student) summed over positions, and its gradient by the student's logits (n, V)."""
    teacher_log = torch.log_softmax(teacher_logits / temperature, dim=1)
    student_log = torch.log_softmax(student_logits / temperature, dim=1)
    teacher = teacher_log.exp()
    loss = (teacher * (teacher_log - student_log)).sum() * temperature**2
    return loss, (student_log.exp() - teacher) * temperature


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T^2 KL(student || teacher) summed over positions, and its gradient by the student's logits (n, V)."""
    ratio = torch.log_softmax(student_logits / temperature, dim=1)
    student = ratio.exp()
    ratio = ratio - torch.log_softmax(teacher_logits / temperature, dim=1)
    divergence = (student * ratio).sum(1, keepdim=True)
    return divergence.sum() * temperature**2, student * (ratio - divergence) * temperature


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl}


def mixed_loss(
    labels: Tensor,
    teacher_logits_of: Callable[[slice], Tensor],
    *,
    label_smoothing: float,
    alpha: float,
    temperature: float,
    direction: str,
) -> ChunkLoss:
    """Return the chunk loss (1 - alpha) CE + alpha T^2 KL; `teacher_logits_of(rows)` gives the teacher's logits (n, V)."""
    divergence = DIVERGENCES[direction]
    label_share = -(1 - alpha) * (1 - label_smoothing)  # of the gradient at the label's logit

    def chunk_loss(logits: Tensor, mean_logits: Tensor, rows: slice, *, out: Tensor) -> tuple[Tensor, float]:
        target, teacher_logits = labels[rows], teacher_logits_of(rows)
        normalisers = softmax(logits, target, out=out)
        hard_loss = smoothed_loss(logits, target, mean_logits, normalisers, label_smoothing)
        if direction == "forward" and temperature == 1:
            # The student's softmax serves both terms: half the passes over the vocabulary that `forward_kl` takes.
            teacher = torch.empty_like(teacher_logits)
            teacher_normalisers = softmax(teacher_logits, target, out=teacher)
            crossed = torch.linalg.vecdot(teacher, teacher_logits.sub_(logits)).float()
            soft_loss = (crossed - teacher_normalisers + normalisers).sum()
            out.sub_(teacher, alpha=alpha)
        else:
            soft_loss, soft_gradient = divergence(logits.float(), teacher_logits.float(), temperature)
            out.mul_(1 - alpha).add_(soft_gradient, alpha=alpha)
        add_at(out, target, label_share)
        return (1 - alpha) * hard_loss + alpha * soft_loss, (1 - alpha) * label_smoothing / logits.shape[1]

    return chunk_loss


@dataclass(frozen=True, kw_only=True)
class WordDistillation:
    """The objective of a student that sees the teacher's distribution at every position, until `teacher_until` steps."""

    teacher: Forward = field(repr=False)  # of a model in eval mode; never updated
    label_smoothing: float
    alpha: float
    temperature: float
    direction: str
    teacher_until: int

    def __call__(self, forward: Forward, batch: Batch, *, step: int) -> Tensor:
        """Return the mean loss a target token; the teacher reads the same batch, without gradient."""
        index = scored_positions(batch)
        labels = batch.labels.flatten()[index]
        if step >= self.teacher_until:
            return head_loss(forward, batch, smoothed_cross_entropy(labels, self.label_smoothing))
        with torch.no_grad():
            teacher_states = filled_rows(self.teacher.states(batch), index)
            weight = self.teacher.output_weight

        def teacher_logits_of(rows: slice) -> Tensor:
            return logits_of(teacher_states, weight, rows)

        chunk = mixed_loss(
            labels,
            teacher_logits_of,
            label_smoothing=self.label_smoothing,
            alpha=self.alpha,
            temperature=self.temperature,
            direction=self.direction,
        )
        return head_loss(forward, batch, chunk)
