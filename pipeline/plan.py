"""What a study will cost before anything is spent: one line a run, and the DVC targets in the order to start them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.budget import Budget
from pipeline.calibration import Calibration
from pipeline.expansion import planned, recipes
from pipeline.flops import Positions, parameters_by_group, train_flops
from pipeline.learning_rates import peak_rate
from pipeline.study import Study

EVALUATION_SECONDS_A_MODEL = 2.0  # losses on validation and test sets, one thread; measured, see docs/core-seconds.md
STARTUP_SECONDS = 8.0  # of one stage: Python, torch, transformers, DVC; measured likewise
TYPICAL_LENGTH = 10  # tokens a sentence on either side, where there is no corpus to ask


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of the plan; seconds are None before calibration."""

    key: str
    kind: str
    params_total: int
    params_embedding: int
    learning_rate: float
    steps: int | None
    train_flops: float | None
    core_seconds: float | None
    disk_bytes: int


def typical_positions(study: Study) -> Positions:
    """Return what a full batch of sentences of the typical length computes, without padding."""
    sentences = max(1, study.training.batch_tokens // TYPICAL_LENGTH)
    return Positions.padded(
        batch=sentences,
        source_length=TYPICAL_LENGTH,
        target_length=TYPICAL_LENGTH,
        scored=sentences * TYPICAL_LENGTH,
    )


def _pretrain_seconds(study: Study, seconds_per_step: float, flops_per_step: float) -> float:
    """Return the trunk's and all branches' seconds: the trunk to the last decay, and one decay a branch."""
    decay = study.training.decay_fraction
    totals = []
    for text in study.budgets.values():
        budget = Budget.parse(text)
        seconds = budget.amount if budget.resource == "seconds" else budget.amount / flops_per_step * seconds_per_step
        totals += [seconds, seconds * (1 - study.recovery_fraction)]
    return max(totals) * (1 - decay) + sum(total * decay for total in totals)


def plan(study: Study, calibration: Calibration) -> list[PlannedRun]:
    """List every run of a study with its parameters, steps, FLOPs, core-seconds (training, evaluation, start-up) and disk."""
    vocabulary, typical = study.corpus.vocab_size, typical_positions(study)
    rows = []
    runs = planned(study)
    recipe_count = len(recipes(study))
    for key, size, _ in runs.runs:
        groups = parameters_by_group(size, vocab_size=vocabulary)
        per_step = calibration.train_step_seconds.get(size.key)
        step_flops = train_flops(size, typical, vocab_size=vocabulary)
        seconds = budget_seconds = None
        if per_step is not None:
            pretraining = _pretrain_seconds(study, per_step, step_flops)
            budget_seconds = {
                match: Budget.parse(text).amount * (1.0 if match == "seconds" else per_step / step_flops)
                for match, text in study.budgets.items()
            }
            recovery = sum(budget_seconds.values()) * study.recovery_fraction * len(study.prune.sparsities)
            evaluation = EVALUATION_SECONDS_A_MODEL * recipe_count * len(study.budgets)
            seconds = pretraining + recovery + evaluation + 4 * STARTUP_SECONDS
        steps = (
            int(budget_seconds["seconds"] / per_step)
            if per_step and budget_seconds and "seconds" in budget_seconds
            else None
        )
        total = sum(groups.values())
        dense = 2 * len(study.budgets) * 4 * total
        rows.append(
            PlannedRun(
                key=key,
                kind="pretrain",
                params_total=total,
                params_embedding=groups["embedding"],
                learning_rate=peak_rate(study.training.learning_rate, d_model=size.d_model, num_layers=size.num_layers),
                steps=steps,
                train_flops=None if steps is None else steps * step_flops,
                core_seconds=seconds,
                disk_bytes=dense + len(study.budgets) * recipe_count * total,
            )
        )
    for key, size, _, _ in runs.students:
        groups = parameters_by_group(size, vocab_size=vocabulary)
        total = sum(groups.values())
        seconds_budget = Budget.parse(study.budgets["seconds"]).amount
        rows.append(
            PlannedRun(
                key=key,
                kind="distill",
                params_total=total,
                params_embedding=groups["embedding"],
                learning_rate=peak_rate(study.training.learning_rate, d_model=size.d_model, num_layers=size.num_layers),
                steps=None,
                train_flops=None,
                core_seconds=seconds_budget + EVALUATION_SECONDS_A_MODEL + 2 * STARTUP_SECONDS,
                disk_bytes=4 * total,
            )
        )
    return rows


PHASES = {
    "chains": ("pretrain", ("pretrain", "quantize", "prune", "evaluate")),
    "teachers": (None, ("translate_train",)),
    "students": ("distill", ("distill", "evaluate_students")),
}
"""What can run side by side, in this order: the kind of run that a chain belongs to, and the chain's stages."""


def targets(study: Study, phase: str) -> list[str]:
    """Return one line of DVC targets for each chain of a phase; chains are independent, the longest come first."""
    kind, stages = PHASES[phase]
    if kind is None:
        return [" ".join(f"{stage}@{study.name}" for stage in stages)] if study.distill.students else []
    rows = [row for row in plan(study, Calibration.load(study.name)) if row.kind == kind]
    rows.sort(key=lambda row: -(row.core_seconds or row.params_total))
    return [" ".join(f"{stage}@{row.key}" for stage in stages) for row in rows]
