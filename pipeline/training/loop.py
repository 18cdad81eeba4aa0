"""The one training loop: steps under a schedule, charged to a ledger, checkpointed, stopped on NaN or on request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.progress import progress
from pipeline.training.interrupts import Interrupted, StopRequest
from pipeline.training.objectives import Objective
from pipeline.training.pricing import Price
from pipeline.training.state import TrainState, save_checkpoint


class Diverged(Exception):
    """The loss is NaN or infinite; the run is marked and the study goes on."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """How steps are made: everything that stays the same along a run."""

    objective: Objective
    price: Price
    peak_rate: float
    clip_norm: float
    validate: Callable[[Any], float]  # mean validation loss a target token; off the clock
    checkpoint_path: Path
    checkpoint_seconds: float
    device: torch.device


def _note(state: TrainState, options: LoopOptions, phase: str, rate: float) -> None:
    """Append a point to the curve: mean training loss since the last point, validation loss, what was spent."""
    spent = state.ledger.total
    train_loss = state.loss_sum / state.loss_count if state.loss_count else None
    state.loss_sum, state.loss_count = 0.0, 0
    valid_loss = options.validate(state.model)
    if not math.isfinite(valid_loss):
        raise Diverged(f"validation loss {valid_loss} at step {state.step} of {phase}")
    state.curve.append(
        {
            "phase": phase,
            "step": state.step,
            "train_seconds": spent.seconds,
            "train_flops": spent.flops,
            "train_tokens": state.ledger.of("train").tokens + state.ledger.of("finetune").tokens,
            "learning_rate": rate * options.peak_rate,
            "train_loss": train_loss,
            "valid_loss": valid_loss,
        }
    )
    state.model.train()


def train(
    state: TrainState,
    options: LoopOptions,
    *,
    phase: str,
    until: int,
    schedule: Callable[[int], float],
    validate_at: frozenset[int] = frozenset(),
) -> None:
    """Advance `state` to step `until` in place.

    `schedule` maps a step to a factor of the peak rate. Validation happens after the steps in `validate_at`. Raises
    Diverged on a loss that is not finite, and Interrupted after saving when SIGTERM or SIGINT came.
    """
    model, optimizer, weights = state.model, state.optimizer, state.forward.weights
    model.train()
    weights.refresh()
    mask = weights.flat_mask(state.masks) if state.masks else None
    last_save = time.monotonic()
    with StopRequest() as stop, progress(total=until, desc=phase, unit="step") as bar:
        bar.update(state.step)
        while state.step < until:
            batch = next(state.stream).to(options.device)
            rate = schedule(state.step)
            for group in optimizer.param_groups:
                group["lr"] = rate * options.peak_rate * group["rate_factor"]
            loss = options.objective(state.forward, batch, step=state.step)
            value = loss.item()
            if not math.isfinite(value):
                raise Diverged(f"loss {value} at step {state.step} of {phase}")
            loss.backward()
            weights.gather_gradient()
            weights.clip(options.clip_norm)
            optimizer.step()
            if mask is not None:
                weights.master.mul_(mask)
            weights.refresh()
            for purpose, cost in options.price(batch, state.step).items():
                state.ledger.charge(purpose, cost)
            state.step += 1
            state.loss_sum += value
            state.loss_count += 1
            bar.update(1)
            if state.step == until and not bool(torch.isfinite(weights.master).all()):
                raise Diverged(f"a weight is not finite after step {state.step} of {phase}")
            if state.step in validate_at:
                _note(state, options, phase, rate)
                bar.set_postfix(valid=f"{state.curve[-1]['valid_loss']:.3f}")
            if stop.number or time.monotonic() - last_save > options.checkpoint_seconds:
                save_checkpoint(options.checkpoint_path, {"phase": phase, "state": state.state_dict()})
                last_save = time.monotonic()
                if stop.number:
                    raise Interrupted(stop.number, str(options.checkpoint_path))
