"""Recovery by distillation: a pruned model learns from the parent it was cut out of.

What it does: as `finetune`, with the parent's distributions of words, or of classes, as a second target; the parent's passes
are charged.
Source: Minitron, Muralidharan et al. 2024 (arXiv 2407.14679), section 3; loss as in Hinton et al. 2015
(arXiv 1503.02531), (1 - alpha) cross-entropy + alpha T^2 KL(parent || model).
When it helps: after structured pruning, where much was removed and the parent still knows it.
When not: when the budget is so short that the parent's passes, a third of a step and more, cost too many steps.
"""

from __future__ import annotations

from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.recovery import recover
from pipeline.recipes import Distill


def apply(candidate: Candidate, step: Distill, bench: Bench) -> None:
    """Train on the step's share of the recovery budget, taught by the parent."""
    recover(candidate, step, bench)
