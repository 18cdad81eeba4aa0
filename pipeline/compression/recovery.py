"""Training inside a recipe: finetuning, or distillation from the parent, on the share of the budget that a step has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.budget import Budget
from pipeline.calibration import word_key
from pipeline.compression.candidate import Bench, Candidate
from pipeline.compression.pruning import apply_masks, sparsity_schedule
from pipeline.corpora.batches import BatchStream
from pipeline.corpora.streams import open_stream
from pipeline.distillation.losses import WordDistillation
from pipeline.errors import StudyError
from pipeline.models.building import set_dropout
from pipeline.models.checkpoint import load_dense
from pipeline.recipes import kind_of_training
from pipeline.training.devices import micro_batch_tokens, move, training_device
from pipeline.training.forward import forward_of
from pipeline.training.loop import LoopOptions, Projection, train
from pipeline.training.objectives import CrossEntropy, Objective
from pipeline.training.precision import resolve
from pipeline.training.pricing import Price, step_price, taught_price, total_costs
from pipeline.training.schedules import linear_to_zero
from pipeline.training.state import TrainState, load_checkpoint, save_checkpoint

_SEED_OFFSET = 1000  # recovery reads the corpus in another order than pretraining did

Choose = Callable[[Candidate, float, dict[str, Tensor] | None], dict[str, Tensor]]
"""(candidate, sparsity, masks so far) -> masks; never un-prunes."""


def _seconds(bench: Bench, kind: str, place: str) -> float:
    if not bench.counts_seconds:
        return 0.0
    seconds = bench.entry["seconds_per_step"].get(kind, {}).get(place)
    if seconds is None:
        study = bench.entry["study"]
        raise StudyError(
            f"{bench.key}: a {kind} step of {place} is not calibrated; run `python -m stages.calibrate --study {study}`, "
            "then `tlc plan --write`"
        )
    return float(seconds)


def _price(candidate: Candidate, bench: Bench, kind: str, *, masked: bool) -> Price:
    """Return what one step of this kind costs; a teacher's part is what a word-level step takes longer than a plain one."""
    vocabulary, size = bench.corpus.vocab_size, candidate.size
    own_kind = kind if kind != "word" else "finetune" if masked else "train"
    own = step_price(
        size, vocab_size=vocabulary, seconds_per_step=_seconds(bench, own_kind, size.key), purpose="finetune"
    )
    if kind != "word":
        return own
    taught = _seconds(bench, "word", word_key(size.key, candidate.trained_size.key))
    extra = max(0.0, taught - _seconds(bench, "train", size.key))
    return taught_price(own, candidate.trained_size, vocab_size=vocabulary, seconds_per_step=extra, until=1 << 60)


def _objective(bench: Bench, step: Any, *, precision: str, device: torch.device, taught: bool) -> Objective:
    smoothing = bench.entry["label_smoothing"]
    if not taught:
        return CrossEntropy(label_smoothing=smoothing)
    teacher = load_dense(bench.parent)
    move(teacher, device)
    return WordDistillation(
        teacher=forward_of(teacher, precision=precision),
        label_smoothing=smoothing,
        alpha=getattr(step, "alpha", 0.5),
        temperature=getattr(step, "temperature", 1.0),
        direction="forward",
        teacher_until=1 << 60,
    )


def recover(
    candidate: Candidate, step: Any, bench: Bench, *, prune: Callable[[int], None] | None = None, rounds: int = 1,
    projection: Projection | None = None,
) -> TrainState | None:  # fmt: skip
    """Train the candidate on its share of the recovery budget, the rate falling to 0; return the state at the end.

    `prune` is called before each of `rounds` equal parts with the number of the round, from 1, and may change the
    candidate's masks. With a `projection` latent weights are trained, and the model ends with the projected
    ones. None when the share is 0: nothing is trained. Diverged (training.loop) when the loss is not
    finite, StudyError when the share pays for fewer steps than rounds.
    """
    masked = bool(candidate.masks) or prune is not None
    kind = kind_of_training(step, masked=masked)
    if bench.share == 0 or kind is None:
        return None
    entry, device = bench.entry, training_device()
    paid = candidate.ledger
    end = min(bench.budget.spent(paid.total) + bench.share * bench.recovery.amount, bench.budget.amount)

    # A second step that trains does not read the first one's batches again.
    seed = entry["seed"] + _SEED_OFFSET + candidate.steps

    def stream() -> BatchStream:
        return open_stream(bench.corpus.split("train"), batch_tokens=entry["batch_tokens"], seed=seed)

    price = _price(candidate, bench, kind, masked=masked)
    budget = Budget(amount=end, resource=bench.budget.resource)
    steps = budget.steps_within(total_costs(stream(), price), spent=paid.total)
    if steps < rounds:
        raise StudyError(
            f"{bench.key}: {bench.budget} leaves {steps} steps for {step.method} in {rounds} rounds; raise the budget"
        )
    torch.manual_seed(seed)
    model = candidate.model
    set_dropout(model, entry["dropout"])
    move(model, device)
    precision = resolve(entry["precision"], device)
    peak = entry["learning_rate"] * step.learning_rate_fraction
    state = TrainState.start(
        model,
        stream=stream(),
        precision=precision,
        learning_rate=peak,
        mup_base_width=entry["mup_base_width"],
        weight_decay=entry["weight_decay"],
        paid=paid,
    )
    state.masks = {name: mask.to(device) for name, mask in candidate.masks.items()}
    options = LoopOptions(
        objective=_objective(bench, step, precision=precision, device=device, taught=kind == "word"),
        price=price,
        peak_rate=peak,
        clip_norm=entry["clip_norm"],
        validate=bench.validate,
        checkpoint_path=bench.checkpoint,
        checkpoint_seconds=entry["checkpoint_seconds"],
        device=device,
        micro_batch_tokens=micro_batch_tokens(),
        projection=projection,
    )
    reached = 0
    if bench.checkpoint.exists():
        resumed = load_checkpoint(bench.checkpoint)
        state.load_state_dict(resumed["state"])
        candidate.ledger = state.ledger
        reached = int(resumed["phase"].rsplit(" ", 1)[1])
    for number in range(1, rounds + 1):
        if number < reached:
            continue
        if number > reached and prune is not None:
            candidate.masks = dict(state.masks)
            prune(number)
            state.masks = dict(candidate.masks)
        train(
            state,
            options,
            phase=f"{bench.key} {step.method} {number}",
            until=steps * number // rounds,
            schedule=partial(linear_to_zero, total_steps=steps),
        )
    save_checkpoint(bench.checkpoint, {"phase": f"{step.method} {rounds}", "state": state.state_dict()})
    move(model, torch.device("cpu"))
    candidate.masks = {name: mask.cpu() for name, mask in state.masks.items()}
    apply_masks(model, candidate.masks)  # a product with 0 may be -0
    candidate.steps += steps
    model.eval()
    return state


def prune_and_recover(candidate: Candidate, step: Any, bench: Bench, choose: Choose) -> None:
    """Mask weights as `choose` says: in one shot, or in rounds on the cubic schedule with training after each."""
    if step.sparsity == 0:
        return

    def prune(sparsity: float) -> None:
        candidate.masks = choose(candidate, sparsity, candidate.masks or None)
        apply_masks(candidate.model, candidate.masks)

    if step.rounds == 0 or bench.share == 0:
        prune(step.sparsity)
        return
    kept = [mask.float().mean().item() for mask in candidate.masks.values()]
    levels = sparsity_schedule(step.sparsity, step.rounds, start=1 - max(kept, default=1.0))
    recover(candidate, step, bench, prune=lambda number: prune(levels[number - 1]), rounds=step.rounds)
