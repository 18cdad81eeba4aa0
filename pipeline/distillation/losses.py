"""Word-level distillation: cross-entropy mixed with a divergence from the teacher's distribution.

Source: Hinton et al. 2015; Kim and Rush 2016, Section 3.1; Blakeney et al. 2022 (0.1 CE + 0.9 T^2 KL at T = 4 there).
When it helps: when the teacher is clearly better and its forward pass is cheap beside the student's update. When not: when
the teacher's cost, charged in full, buys the student more steps instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.corpora.batches import Batch
from pipeline.training.objectives import ChunkLoss, decoder_states, head_loss, matmul_dtype, smoothed_cross_entropy


def forward_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return T^2 KL(teacher || student) summed over positions, and its gradient by the student's logits (n, V)."""
    teacher_log = torch.log_softmax(teacher_logits / temperature, dim=1)
    student_log = torch.log_softmax(student_logits / temperature, dim=1)
    teacher = teacher_log.exp()
    loss = (teacher * (teacher_log - student_log)).sum() * temperature**2
    return loss, (student_log.exp() - teacher) * temperature


def reverse_kl(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return T^2 KL(student || teacher) summed over positions, and its gradient by the student's logits (n, V)."""
    ratio = torch.log_softmax(student_logits / temperature, dim=1)
    student = ratio.exp()
    ratio = ratio - torch.log_softmax(teacher_logits / temperature, dim=1)
    divergence = (student * ratio).sum(1, keepdim=True)
    return divergence.sum() * temperature**2, student * (ratio - divergence) * temperature


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl}


def mixed_loss(
    labels: torch.Tensor,
    teacher_logits_of: Any,
    *,
    label_smoothing: float,
    alpha: float,
    temperature: float,
    direction: str,
) -> ChunkLoss:
    """Return the chunk loss (1 - alpha) CE + alpha T^2 KL; `teacher_logits_of(rows)` gives the teacher's fp32 logits."""
    hard = smoothed_cross_entropy(labels, label_smoothing)
    divergence = DIVERGENCES[direction]

    def chunk_loss(logits: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        soft_loss, soft_gradient = divergence(logits, teacher_logits_of(rows), temperature)
        hard_loss, hard_gradient = hard(logits, rows)  # overwrites the logits, so it comes last
        gradient = hard_gradient.mul_(1 - alpha).add_(soft_gradient, alpha=alpha)
        return (1 - alpha) * hard_loss + alpha * soft_loss, gradient

    return chunk_loss


@dataclass(frozen=True, kw_only=True)
class WordDistillation:
    """The objective of a student that sees the teacher's distribution at every position, until `teacher_until` steps."""

    teacher: Any = field(repr=False)  # in eval mode; never updated
    label_smoothing: float
    alpha: float
    temperature: float
    direction: str
    teacher_until: int

    def __call__(self, model: Any, batch: Batch, *, step: int) -> torch.Tensor:
        """Return the mean loss a target token; the teacher reads the same batch, without gradient."""
        kept = batch.labels != -100
        labels = batch.labels[kept]
        if step >= self.teacher_until:
            chunk = smoothed_cross_entropy(labels, self.label_smoothing)
            return head_loss(model, decoder_states(model, batch)[kept], chunk)
        with torch.no_grad():
            teacher_states = decoder_states(self.teacher, batch)[kept]
            teacher_states = teacher_states.to(matmul_dtype(teacher_states))
            weight = self.teacher.lm_head.weight.to(teacher_states.dtype)

        def teacher_logits_of(rows: slice) -> torch.Tensor:
            return (teacher_states[rows] @ weight.t()).float()

        chunk = mixed_loss(
            labels,
            teacher_logits_of,
            label_smoothing=self.label_smoothing,
            alpha=self.alpha,
            temperature=self.temperature,
            direction=self.direction,
        )
        return head_loss(model, decoder_states(model, batch)[kept], chunk)
