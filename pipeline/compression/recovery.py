"""Iterative magnitude pruning with finetuning between the rounds, within what a budget leaves.

What it does: prune a little, finetune with the pruned weights held at zero, repeat to the target sparsity.
Source: Han et al. 2015; Li et al. 2020 (Train Large, Then Compress), Section 4. When it helps: at 50 % and beyond, where
one-shot pruning destroys the model. When not: below about 30 %, one shot is as good and costs nothing.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.budget import Budget, Ledger
from pipeline.compression.formats import save_compressed
from pipeline.compression.posttraining import rounded
from pipeline.compression.pruning import apply_masks, compressible, magnitude_masks, sparsity_schedule
from pipeline.corpora.batches import BatchStream
from pipeline.corpora.prepared import PreparedCorpus
from pipeline.errors import StudyError
from pipeline.expansion import prune_recipe
from pipeline.files import atomic_path, read_json, write_json
from pipeline.models.checkpoint import load_dense, model_directory, read_run
from pipeline.models.seq2seq import set_dropout
from pipeline.training.branches import begin, clear
from pipeline.training.devices import micro_batch_tokens, training_device
from pipeline.training.loop import Diverged, LoopOptions, train
from pipeline.training.objectives import CrossEntropy
from pipeline.training.precision import resolve
from pipeline.training.pretraining import Validate, branch_of, calibrated, run_record, size_of
from pipeline.training.pricing import step_price, total_costs
from pipeline.training.schedules import linear_to_zero
from pipeline.training.state import TrainState, load_checkpoint

_SEED_OFFSET = 1000  # recovery reads the corpus in another order than pretraining did


def prune_run(
    entry: dict[str, Any], *, key: str, parent: Path, corpus: PreparedCorpus, out: Path, work: Path, validate: Validate
) -> str:
    """Prune one pretrained run to every sparsity under every match, quantize the results too, and write `out`.

    Every row spends on finetuning what its parent (the early branch) left of the budget. Returns a one-line summary.
    """
    begin(work, out=out)
    metrics: dict[str, Any] = {}
    names: list[str] = []
    for match, text in entry["budgets"].items():
        for sparsity in entry["sparsities"]:
            name = f"{match}-{prune_recipe(sparsity)}"
            names.append(name)
            status = work / f"{name}.status.json"
            if not status.exists():
                source = branch_of(parent, f"{match}-early")
                outcome = {"status": "diverged", "valid_loss": None}
                if source is not None:
                    outcome = _recover(
                        entry, key=key, match=match, budget=Budget.parse(text), sparsity=sparsity, source=source,
                        corpus=corpus, work=work, validate=validate,
                    )  # fmt: skip
                write_json(status, outcome)
                (work / f"{name}.pt").unlink(missing_ok=True)
            metrics[name] = read_json(status)
    with atomic_path(out) as temporary:
        temporary.mkdir(parents=True)
        for directory in sorted(work.iterdir()):
            if directory.is_dir() and not directory.name.startswith("."):
                shutil.copytree(directory, temporary / directory.name)
        write_json(temporary / "metrics.json", metrics)
    clear(work)
    losses = [f"{name} {metrics[name]['valid_loss']:.3f}" for name in names if metrics[name]["valid_loss"] is not None]
    return f"{key}: validation loss after pruning {', '.join(losses)}"


def _recover(
    entry: dict[str, Any], *, key: str, match: str, budget: Budget, sparsity: float, source: Path,
    corpus: PreparedCorpus, work: Path, validate: Validate,
) -> dict[str, Any]:  # fmt: skip
    """Prune `source` to `sparsity` in rounds and write its directories under `work`; return its metrics."""
    parent_run = read_run(source)
    paid = Ledger.from_dict(parent_run["ledger"])
    price = step_price(
        size_of(entry), vocab_size=corpus.vocab_size, seconds_per_step=calibrated(entry), purpose="finetune"
    )

    def stream() -> BatchStream:
        split = corpus.split("train")
        return BatchStream(split, batch_tokens=entry["batch_tokens"], seed=entry["seed"] + _SEED_OFFSET)

    steps = budget.steps_within(total_costs(stream(), price), spent=paid.total)
    rounds = entry["rounds"]
    if steps < rounds:
        raise StudyError(f"{key}: the budget {budget} leaves {steps} steps for {rounds} rounds of recovery; raise it")

    torch.manual_seed(entry["seed"] + _SEED_OFFSET)
    device = training_device()
    model = load_dense(source)
    set_dropout(model, entry["dropout"])
    model.to(device)  # type: ignore[arg-type]
    peak = entry["learning_rate"] * entry["learning_rate_fraction"]
    precision = resolve(entry["precision"], device)
    state = TrainState.start(
        model,
        stream=stream(),
        precision=precision,
        learning_rate=peak,
        mup_base_width=entry["mup_base_width"],
        weight_decay=entry["weight_decay"],
        paid=paid,
    )
    name = f"{match}-{prune_recipe(sparsity)}"
    progress_path = work / f"{name}.pt"
    options = LoopOptions(
        objective=CrossEntropy(label_smoothing=entry["label_smoothing"]),
        price=price,
        peak_rate=peak,
        clip_norm=entry["clip_norm"],
        validate=validate,
        checkpoint_path=progress_path,
        checkpoint_seconds=entry["checkpoint_seconds"],
        device=device,
        micro_batch_tokens=micro_batch_tokens(),
    )
    reached = 0
    if progress_path.exists():
        resumed = load_checkpoint(progress_path)
        state.load_state_dict(resumed["state"])
        reached = int(resumed["phase"].rsplit(" ", 1)[1])
    levels = sparsity_schedule(sparsity, rounds)
    try:
        for number, level in enumerate(levels, start=1):
            if number < reached:
                continue
            if number > reached:
                weights = {weight: parameter.detach() for weight, parameter in compressible(model).items()}
                state.masks = magnitude_masks(weights, level, previous=state.masks or None)
                apply_masks(model, state.masks)
            train(
                state,
                options,
                phase=f"{name} round {number}",
                until=steps * number // rounds,
                schedule=partial(linear_to_zero, total_steps=steps),
            )
    except Diverged as fault:
        print(f"{key} {name}: {fault}; the row is marked diverged and the study goes on")
        return {"status": "diverged", "valid_loss": None, "steps": state.step}

    tokenizer = corpus.tokenizer()
    for bits in (None, *entry["bits"]):
        recipe = prune_recipe(sparsity, bits)
        record = run_record(
            entry,
            vocab_size=corpus.vocab_size,
            match=match,
            run_id=f"{key}-{match}-{recipe}",
            parent_id=parent_run["run_id"],
            config_id=f"{entry['size']}/{recipe}",
            budget=str(budget),
            method="prune+quantize" if bits else "prune",
            recipe=recipe,
            bits=bits,
            sparsity=sparsity,
            ledger=state.ledger.as_dict(),
            steps=steps,
            precision=precision,
        )
        path = work / f"{match}-{recipe}"
        with model_directory(path, tokenizer=tokenizer, run=record, corpus=corpus.card) as temporary:
            save_compressed(rounded(model, entry, bits=bits, masks=state.masks), temporary)
    return {"status": "ok", "valid_loss": validate(model), "steps": steps}
