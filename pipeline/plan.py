"""What a study will cost before anything is spent: one line a run, and estimated seconds of every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.budget import Budget
from pipeline.calibration import Calibration
from pipeline.expansion import families_of, planned
from pipeline.flops import Positions, parameters_by_group, train_flops
from pipeline.learning_rates import peak_rate
from pipeline.recipes import Family, trains
from pipeline.size import SizeSpec
from pipeline.study import Study
from pipeline.text_corpus import EncoderCorpusSpec

# Measured in the default study, see docs/core-seconds.md.
EVALUATION_SECONDS_A_MODEL = 1.5  # losses on validation and test sets, one thread
STARTUP_SECONDS = 5.0  # of one stage: Python, torch, transformers
COMPRESSION_SECONDS_A_RECIPE = 0.5  # that trains nothing
TRANSLATION_SECONDS_A_MODEL = 0.7  # the test set and its scores on two cores; about half of all models are translated
TIMING_SECONDS_A_SIZE = 8.0
PREPARATION_SECONDS = 12.0
REPORT_SECONDS = 18.0
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
    stage_seconds: Mapping[str, float] | None
    """Core-seconds of its stages by DVC's name for them: training, compression, evaluation, start-up."""

    models: int  # fp32 and compressed
    disk_bytes: int

    @property
    def core_seconds(self) -> float | None:
        """Core-seconds of all its stages."""
        return None if self.stage_seconds is None else sum(self.stage_seconds.values())


def typical_positions(study: Study) -> Positions:
    """Return what a full batch of sentences of the typical length computes, without padding; of text, of whole blocks."""
    if isinstance(study.corpus, EncoderCorpusSpec):
        length = study.corpus.sequence_tokens
        blocks = max(1, study.training.batch_tokens // length)
        scored = round(blocks * (length - 2) * study.corpus.mask_probability)
        return Positions.padded(batch=blocks, source_length=length, target_length=length, scored=scored)
    sentences = max(1, study.training.batch_tokens // TYPICAL_LENGTH)
    return Positions.padded(
        batch=sentences,
        source_length=TYPICAL_LENGTH,
        target_length=TYPICAL_LENGTH,
        scored=sentences * TYPICAL_LENGTH,
    )


def step_positions(study: Study, size: SizeSpec) -> Positions:
    """Return what a full batch of this size's training computes; of a classifier's, sentences as long as they may be."""
    if not (size.num_labels and study.finetune and isinstance(study.corpus, EncoderCorpusSpec)):
        return typical_positions(study)
    length = study.corpus.max_tokens
    sentences = max(1, study.finetune.batch_tokens // length)
    return Positions.padded(batch=sentences, source_length=length, target_length=1, scored=sentences)


def _worth(study: Study, calibration: Calibration, size: SizeSpec) -> dict[str, float] | None:
    """Return how many seconds of this size's training each budget is; None before calibration.

    A classifier makes fewer FLOPs a second than a masked LM of its size, so that a share of a FLOP budget lasts it longer.
    """
    per_step = calibration.train_step_seconds.get(size.key)
    if per_step is None:
        return None
    step_flops = train_flops(size, step_positions(study, size), vocab_size=study.corpus.vocab_size)
    return {
        match: Budget.parse(text).amount * (1.0 if match == "seconds" else per_step / step_flops)
        for match, text in study.budgets.items()
    }


def _pretrain_seconds(study: Study, worth: Mapping[str, float]) -> float:
    """Return the trunk's and all branches' seconds: the trunk to the last decay, and one decay a branch."""
    decay = study.training.decay_fraction
    kept = study.finetune.fraction if study.finetune else 0.0
    shares = (1 - kept, 1 - kept - study.recovery_fraction)
    totals = [seconds * share for seconds in worth.values() for share in shares]
    return max(totals) * (1 - decay) + sum(total * decay for total in totals)


def plan(study: Study, calibration: Calibration) -> list[PlannedRun]:
    """List every run of a study with its parameters, steps, FLOPs, core-seconds (training, evaluation, start-up) and disk."""
    vocabulary, typical = study.corpus.vocab_size, typical_positions(study)
    rows = []
    runs = planned(study)
    for key, size, seed in runs.runs:
        groups = parameters_by_group(size, vocab_size=vocabulary)
        per_step = calibration.train_step_seconds.get(size.key)
        step_flops = train_flops(size, typical, vocab_size=vocabulary)
        families = families_of(study, size, seed)
        scratch = bool(study.finetune and study.finetune.scratch)
        finetuned = study.finetune.fraction if study.finetune else 0.0
        directories = 2 + (
            2 + scratch if study.finetune else 0
        )  # dense ones a budget: both branches, their classifiers
        models = len(study.budgets) * (1 + scratch) + sum(
            len(family.recipes) * len(family.matches or study.budgets) for family in families.values()
        )
        seconds = steps = None
        worth = _worth(study, calibration, size)
        later = _worth(study, calibration, study.recipe_parent(size))
        if per_step is not None and worth is not None and later is not None:
            spent = {
                f"pretrain@{key}": _pretrain_seconds(study, worth),
                f"evaluate@{key}": EVALUATION_SECONDS_A_MODEL * models,
            }
            if study.finetune:  # both branches of each budget, and without pretraining one as long as the whole one
                each = 2 + scratch
                spent[f"finetune@{key}"] = each * study.finetune.fraction * sum(later.values())
            for name, family in families.items():
                recovery = sum(later[match] for match in family.matches or later) * study.recovery_fraction
                spent[f"{family.stage}@{key}-{name}"] = recovery * trainings(
                    family
                ) + COMPRESSION_SECONDS_A_RECIPE * len(family.recipes)
            seconds = {stage: amount + STARTUP_SECONDS for stage, amount in spent.items()}
            steps = int(worth["seconds"] * (1 - finetuned) / per_step)
        total = sum(groups.values())
        rows.append(
            PlannedRun(
                key=key,
                kind="pretrain",
                params_total=total,
                params_embedding=groups["embedding"],
                learning_rate=peak_rate(study.training.learning_rate, d_model=size.d_model, num_layers=size.num_layers),
                steps=steps,
                train_flops=None if steps is None else steps * step_flops,
                stage_seconds=seconds,
                models=models,
                disk_bytes=4 * total * directories * len(study.budgets) + models * total,
            )
        )
    student_recipes = {name: family for name, family in study.recipes.items() if family.students}
    for key, student, _ in runs.students:
        size = study.size(student.size)
        models = 1 + sum(len(family.recipes) for family in student_recipes.values())
        quantizing = {
            f"{family.stage}@{key}-{name}": STARTUP_SECONDS + COMPRESSION_SECONDS_A_RECIPE * len(family.recipes)
            for name, family in student_recipes.items()
        }
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
                stage_seconds={
                    f"distill@{key}": seconds_budget + STARTUP_SECONDS,
                    **quantizing,
                    f"evaluate_students@{key}": EVALUATION_SECONDS_A_MODEL * models + STARTUP_SECONDS,
                },
                models=models,
                disk_bytes=4 * total + models * total,
            )
        )
    return rows


def trainings(family: Family) -> int:
    """Return how many times a family spends the recovery budget under one match: recipes share their first steps."""
    spent = set()
    for steps in family.recipes.values():
        trained = max((number for number, step in enumerate(steps, start=1) if trains(step)), default=0)
        if trained:
            spent.add(tuple(step.model_dump_json() for step in steps[:trained]))
    return len(spent)


def stage_seconds(study: Study, calibration: Calibration) -> dict[str, float]:
    """Return the estimated seconds of a study's stages by DVC's name for them; nothing before calibration."""
    rows = plan(study, calibration)
    if any(row.stage_seconds is None for row in rows):
        return {}
    result = {stage: seconds for row in rows for stage, seconds in (row.stage_seconds or {}).items()}
    models = sum(row.models for row in rows)
    result |= {
        f"prepare@{study.name}": PREPARATION_SECONDS,
        f"time@{study.name}": STARTUP_SECONDS + TIMING_SECONDS_A_SIZE * len(study.sizes),
        f"report@{study.name}": REPORT_SECONDS,
    }
    if study.task == "translation":
        result[f"translate_test@{study.name}"] = STARTUP_SECONDS + TRANSLATION_SECONDS_A_MODEL * models
    if study.distill.students:
        decoding = max(calibration.decode_sentence_seconds.values(), default=0.0)
        result[f"translate_train@{study.name}"] = STARTUP_SECONDS + decoding * study.distill.sequence_sentences
    return result
