"""Learning-rate schedules as pure functions of the step, from 0 to 1."""

from __future__ import annotations

import math


def trunk(step: int, *, warmup_steps: int) -> float:
    """Linear warm-up, then constant: the part that all branches share."""
    return min(1.0, (step + 1) / (warmup_steps + 1))


def decay_start(total_steps: int, *, decay_fraction: float) -> int:
    """Return the step at which a branch of `total_steps` leaves the trunk."""
    return total_steps - max(1, round(total_steps * decay_fraction)) if total_steps else 0


def cooldown(step: int, *, warmup_steps: int, total_steps: int, decay_fraction: float) -> float:
    """The trunk until `decay_start`, then down to 0 as 1 - sqrt (Haegele et al. 2405.18392, Section 3)."""
    start = decay_start(total_steps, decay_fraction=decay_fraction)
    rate = trunk(step, warmup_steps=warmup_steps)
    if step < start:
        return rate
    return rate * (1 - math.sqrt((step - start + 1) / (total_steps - start + 1)))


def linear_to_zero(step: int, *, total_steps: int) -> float:
    """From 1 at the first step to almost 0 at the last: the recovery of a pruned model."""
    return 1 - step / max(1, total_steps)


def warm_and_linear(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then linearly down to almost 0 at the last step: finetuning (Liu et al. 2019, section 5.1)."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (total_steps - step) / max(1, total_steps - warmup_steps)
