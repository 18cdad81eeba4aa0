"""The one training loop: steps under a schedule, charged to a ledger, checkpointed, stopped on NaN or on request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.corpora.batches import Batch
from pipeline.progress import progress
from pipeline.training.interrupts import Interrupted, StopRequest
from pipeline.training.objectives import Objective
from pipeline.training.parallel import add_up, gathered, share_of
from pipeline.training.pricing import Price
from pipeline.training.state import TrainState, save_checkpoint
from pipeline.training.weights import FlatWeights

Projection = Callable[[FlatWeights, Mapping[str, torch.Tensor]], Callable[[], None]]
"""(weights, masks by parameter name) -> what makes the weights from the latent ones, pruned ones 0, after every step."""


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
    checkpoint_path: Path | None  # None: nothing is saved, and a signal ends the process at once
    checkpoint_seconds: float
    device: torch.device
    micro_batch_tokens: int | None = None  # padded, that one process computes with at once; None: a whole batch
    projection: Projection | None = None  # trains latent weights with the gradient by projected ones; None: the weights


def _gradient(state: TrainState, options: LoopOptions, batch: Batch) -> float:
    """Put the gradient of a batch's mean loss a token into the flat weights, and return that loss.

    The batch is cut over the processes, and each share into micro-batches; a part's mean counts by its target tokens, so
    that all parts together have the loss and the gradient of the whole batch.
    """
    weights = state.forward.weights
    share = share_of(batch)
    losses: list[torch.Tensor] = []
    for part in share.within(options.micro_batch_tokens) if share else ():
        loss = options.objective(state.forward, part.to(options.device), step=state.step)
        if part is not batch:
            loss = loss * (part.target_tokens / batch.target_tokens)
        loss.backward()
        weights.gather_gradient(add=bool(losses))
        losses.append(loss.detach())
    if not losses:
        weights.gradient.zero_()
    add_up(weights.gradient)
    return float(gathered(sum(loss.item() for loss in losses)).sum())


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
    Diverged on a loss that is not finite, and Interrupted after saving when SIGTERM or SIGINT came. Under torchrun all
    processes make every step together, stop at the same one whichever of them got the signal, and the first one saves. The
    ledger is charged for whole batches, once; seconds stay those of the one process that was calibrated.
    """
    model, optimizer, weights = state.model, state.optimizer, state.forward.weights
    model.train()
    mask = weights.flat_mask(state.masks) if state.masks else None
    project = None
    if options.projection is not None:
        weights.part_latent()
        project = options.projection(weights, state.masks)
        project()
    weights.refresh()
    last_save = time.monotonic()
    saved = options.checkpoint_path
    with StopRequest(heeded=saved is not None) as stop, progress(total=until, desc=phase, unit="step") as bar:
        bar.update(state.step)
        while state.step < until:
            batch = next(state.stream)
            rate = schedule(state.step)
            for group in optimizer.param_groups:
                group["lr"] = rate * options.peak_rate * group["rate_factor"]
            value = _gradient(state, options, batch)
            if not math.isfinite(value):
                raise Diverged(f"loss {value} at step {state.step} of {phase}")
            weights.clip(options.clip_norm)
            optimizer.step()
            if mask is not None:
                weights.latent.mul_(mask)
            if project is not None:
                project()
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
            # Signals and clocks differ between processes, and saving takes all of them.
            due = time.monotonic() - last_save > options.checkpoint_seconds
            stops, saves = gathered(stop.number, due).amax(0).tolist()
            if saved is not None and (stops or saves):
                save_checkpoint(saved, {"phase": phase, "state": state.state_dict()})
                last_save = time.monotonic()
                if stops:
                    raise Interrupted(int(stops), str(saved))
