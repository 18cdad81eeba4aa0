"""A study expanded into the entries of params.yaml: one flat dict for every run of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.calibration import Calibration, word_key
from pipeline.errors import StudyError
from pipeline.flops import parameters_total
from pipeline.learning_rates import peak_rate
from pipeline.size import SizeSpec
from pipeline.study import Study

Entries = dict[str, dict[str, dict[str, Any]]]

KINDS = (
    "prepare",
    "pretrain",
    "quantize",
    "prune",
    "evaluate",
    "translate_train",
    "distill",
    "evaluate_students",
    "translate_test",
    "time",
    "report",
)


def pretrain_key(study: Study, size: SizeSpec, seed: int) -> str:
    """Return ``default-w64x2-s0``."""
    return f"{study.name}-{size.key}-s{seed}"


def distill_key(study: Study, size: SizeSpec, method: str, seed: int) -> str:
    """Return ``default-w64x2-word-s0``."""
    return f"{study.name}-{size.key}-{method}-s{seed}"


def quantize_recipe(bits: int) -> str:
    """Return ``q4``."""
    return f"q{bits}"


def prune_recipe(sparsity: float, bits: int | None = None) -> str:
    """Return ``p50`` or ``p50q4``."""
    return f"p{round(sparsity * 100)}" + (quantize_recipe(bits) if bits else "")


def recipes(study: Study) -> list[str]:
    """Return every recipe of a pretrained run, fp32 first."""
    pruned = [
        prune_recipe(sparsity, bits)
        for sparsity in study.prune.sparsities
        for bits in (None, *study.prune.quantize_bits)
    ]
    return ["fp32", *map(quantize_recipe, study.quantize.bits), *pruned]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A study's runs: (key, size, seed) of pretraining, (key, size, method, seed) of distillation."""

    runs: list[tuple[str, SizeSpec, int]]
    students: list[tuple[str, SizeSpec, str, int]]


def planned(study: Study) -> Planned:
    """List the runs of a study, smallest size first."""
    runs = [(pretrain_key(study, size, seed), size, seed) for size in study.sizes for seed in range(size.seeds)]
    students: list[tuple[str, SizeSpec, str, int]] = [
        (distill_key(study, study.size(key), method, seed), study.size(key), method, seed)
        for key in study.distill.students
        for method in study.distill.methods
        for seed in range(study.distill.seeds)
    ]
    return Planned(runs=runs, students=students)


def teacher_candidates(study: Study) -> list[SizeSpec]:
    """Return the sizes with more parameters than every student: the best of them, by validation loss, teaches."""
    vocabulary = study.corpus.vocab_size
    largest = max(
        (parameters_total(study.size(key), vocab_size=vocabulary) for key in study.distill.students), default=0
    )
    larger = [size for size in study.sizes if parameters_total(size, vocab_size=vocabulary) > largest]
    if study.distill.students and not larger:
        raise StudyError(
            f"study {study.name}: no size is larger than every student of distill.students; no one can teach"
        )
    return larger


def _shape(size: SizeSpec) -> dict[str, Any]:
    return {
        "size": size.key,
        "d_model": size.d_model,
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ffn_dim": size.ffn_dim,
    }


def _training(study: Study, size: SizeSpec) -> dict[str, Any]:
    training = study.training
    return {
        "learning_rate": float(
            f"{peak_rate(training.learning_rate, d_model=size.d_model, num_layers=size.num_layers):.4g}"
        ),
        "mup_base_width": training.learning_rate.mup_base_width,
        "dropout": training.dropout if size.dropout is None else size.dropout,
        "batch_tokens": training.batch_tokens,
        "label_smoothing": training.label_smoothing,
        "weight_decay": training.weight_decay,
        "clip_norm": training.clip_norm,
        "precision": training.precision,
        "checkpoint_seconds": training.checkpoint_seconds,
    }


def expand(study: Study, calibration: Calibration) -> Entries:
    """Return {stage kind: {key: entry}}; seconds a step that were not calibrated are None."""
    plan = planned(study)
    name = study.name
    keys = [key for key, _, _ in plan.runs]
    student_keys = [key for key, *_ in plan.students]
    candidates = teacher_candidates(study)
    matches = sorted(study.budgets, reverse=True)
    entries: Entries = {kind: {} for kind in KINDS}
    entries["prepare"][name] = {"study": name, **study.corpus.model_dump(exclude_none=True)}
    for key, size, seed in plan.runs:
        common = {"study": name, "task": study.task, **_shape(size), "seed": seed}
        entries["pretrain"][key] = {
            **common,
            **_training(study, size),
            "budgets": dict(study.budgets),
            "recovery_fraction": study.recovery_fraction,
            "warmup_steps": study.training.warmup_steps,
            "decay_fraction": study.training.decay_fraction,
            "validate_points": study.training.validate_points,
            "seconds_per_step": calibration.train_step_seconds.get(size.key),
        }
        entries["quantize"][key] = {**common, "matches": matches, "bits": study.quantize.bits}
        entries["prune"][key] = {
            **common,
            **_training(study, size),
            "learning_rate_fraction": study.prune.learning_rate_fraction,
            "budgets": dict(study.budgets),
            "recovery_fraction": study.recovery_fraction,
            "sparsities": study.prune.sparsities,
            "rounds": study.prune.rounds,
            "bits": study.prune.quantize_bits,
            "seconds_per_step": calibration.finetune_step_seconds.get(size.key),
        }
        entries["evaluate"][key] = {**common, "matches": matches, "recipes": recipes(study)}
    if plan.students:
        entries["translate_train"][name] = {
            "study": name,
            "candidates": [pretrain_key(study, size, 0) for size in candidates],
            "sentences": study.distill.sequence_sentences,
            "beam": study.distill.sequence_beam,
            "length_penalty": study.translate.length_penalty,
            "max_length": study.translate.max_length,
            "seconds_per_sentence": {
                size.key: calibration.decode_sentence_seconds.get(size.key) for size in candidates
            },
        }
    for key, size, method, seed in plan.students:
        common = {"study": name, "task": study.task, **_shape(size), "seed": seed, "method": method}
        teachers = {s.key: calibration.word_step_seconds.get(word_key(size.key, s.key)) for s in candidates}
        entries["distill"][key] = {
            **common,
            **_training(study, size),
            "budget": study.budgets["seconds"],
            "warmup_steps": study.training.warmup_steps,
            "decay_fraction": study.training.decay_fraction,
            "alpha": study.distill.alpha,
            "temperature": study.distill.temperature,
            "direction": study.distill.direction,
            "teacher_fraction": study.distill.teacher_fraction,
            "seconds_per_step": calibration.train_step_seconds.get(size.key),
            "teacher_seconds_per_step": teachers if method == "word" else {},
        }
        entries["evaluate_students"][key] = common
    shared = {"study": name, "runs": keys, "students": student_keys, "matches": matches, "recipes": recipes(study)}
    comparison = {"limits": study.report.limits, "resamples": study.report.resamples}
    entries["translate_test"][name] = {**shared, **comparison, **study.translate.model_dump()}
    firsts = [pretrain_key(study, size, 0) for size in study.sizes]
    entries["time"][name] = {
        "study": name,
        "runs": firsts,
        "matches": matches,
        **study.time.model_dump(),
        **study.translate.model_dump(),
    }
    entries["report"][name] = {
        **shared,
        "task": study.task,
        "quality_name": "BLEU",
        **study.report.model_dump(exclude={"confounds"}),
        "confounds": [*study.report.confounds, *_edge_notes(study)],
        "budgets": dict(study.budgets),
        "recovery_fraction": study.recovery_fraction,
        "plain_of_student": {key: pretrain_key(study, size, seed) for key, size, _, seed in plan.students},
    }
    return entries


def _edge_notes(study: Study) -> list[str]:
    return [
        f"The best learning rate tried at d_model {width} lay at the edge of its grid; a better one may lie beyond."
        for width in study.training.learning_rate.edges
    ]
