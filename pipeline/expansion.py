"""A study expanded into the entries of params.yaml: one flat dict for every run of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.calibration import Calibration, word_key
from pipeline.errors import StudyError
from pipeline.flops import parameters_total
from pipeline.learning_rates import peak_rate
from pipeline.recipes import Family, kind_of, method_of
from pipeline.size import SizeSpec
from pipeline.steps_needed import steps_of_family
from pipeline.study import StudentSpec, Study

Entries = dict[str, dict[str, dict[str, Any]]]

KINDS = (
    "prepare",
    "pretrain",
    "finetune",
    "quantize",
    "prune",
    "evaluate",
    "translate_train",
    "distill",
    "evaluate_students",
    "translate_test",
    "engines",
    "time",
    "report",
)


def pretrain_key(study: Study, size: SizeSpec, seed: int) -> str:
    """Return ``default-w64x2-s0``."""
    return f"{study.name}-{size.key}-s{seed}"


def distill_key(study: Study, student: StudentSpec, seed: int) -> str:
    """Return ``default-w64x2-word-s0``."""
    return f"{study.name}-{student.size}-{student.teaching}-s{seed}"


def recipe_table(study: Study) -> dict[str, dict[str, Any]]:
    """Return what of every recipe the later stages need, by its name: its family, method and kind, and the runs it applies to."""
    matches = sorted(study.budgets, reverse=True)
    return {
        name: {
            "family": family_name,
            "method": method_of(steps),
            "kind": kind_of(steps),
            "branch": family.branch_of(name),
            "sizes": [size.key for size in study.sizes_of(family)],
            "matches": [match for match in matches if family.matches is None or match in family.matches],
            "seeds": family.seeds,
            "curve": family.curve,
            "students": family.students,
        }
        for family_name, family in study.recipes.items()
        for name, steps in family.recipes.items()
    }


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A study's runs: (key, size, seed) of pretraining, (key, student, seed) of distillation."""

    runs: list[tuple[str, SizeSpec, int]]
    students: list[tuple[str, StudentSpec, int]]


def planned(study: Study) -> Planned:
    """List the runs of a study, smallest size first."""
    runs = [(pretrain_key(study, size, seed), size, seed) for size in study.sizes for seed in range(size.seeds)]
    students = [
        (distill_key(study, student, seed), student, seed)
        for student in study.distill.students
        for seed in range(student.seeds)
    ]
    return Planned(runs=runs, students=students)


def families_of(study: Study, size: SizeSpec, seed: int) -> dict[str, Family]:
    """Return the families that apply to one pretrained run, by name."""
    return {
        name: family
        for name, family in study.recipes.items()
        if size in study.sizes_of(family) and (family.seeds is None or seed < family.seeds)
    }


def teacher_candidates(study: Study) -> list[SizeSpec]:
    """Return the sizes with more parameters than every student: the best of them, by validation loss, teaches."""
    vocabulary = study.corpus.vocab_size
    largest = max((parameters_total(study.size(key), vocab_size=vocabulary) for key in study.distill.sizes), default=0)
    larger = [size for size in study.sizes if parameters_total(size, vocab_size=vocabulary) > largest]
    if study.distill.students and not larger:
        raise StudyError(
            f"study {study.name}: no size is larger than every student of distill.students; no one can teach"
        )
    for student in study.distill.students:
        if student.init == "teacher":
            _check_cuttable(study, student, larger)
    return larger


def _check_cuttable(study: Study, student: StudentSpec, candidates: list[SizeSpec]) -> None:
    """Raise StudyError, before anything is trained, when a size that may come to teach does not hold the student's shape."""
    part = study.size(student.size)
    for whole in candidates:
        grown = [name for name in ("num_layers", "d_model", "ffn_dim") if getattr(part, name) > getattr(whole, name)]
        if grown or part.head_dim != whole.head_dim:
            fault = f"it has more {grown[0]}" if grown else "their heads differ in columns"
            raise StudyError(
                f"study {study.name}: student {student.size}-{student.teaching} cannot be cut out of {whole.key}, which may "
                f"come to teach: {fault}; choose another size, or init: random"
            )


def _common(study: Study, size: SizeSpec, *, task: str, seed: int) -> dict[str, Any]:
    """Return what entries of one run share; `size` names the run, whatever head its model has by then."""
    trained = size.changed(num_labels=0).key
    return {"study": study.name, "task": task, "size": trained, **size.record(), "seed": seed}


def _training(study: Study, size: SizeSpec) -> dict[str, Any]:
    """Return how a model of this size is trained: pretrained, or as a classifier finetuned."""
    training = study.finetune if size.num_labels and study.finetune else study.training
    return {
        "learning_rate": float(
            f"{peak_rate(training.learning_rate, d_model=size.d_model, num_layers=size.num_layers):.4g}"
        ),
        "mup_base_width": training.learning_rate.mup_base_width,
        "dropout": training.dropout if size.dropout is None or size.num_labels else size.dropout,
        "batch_tokens": training.batch_tokens,
        "label_smoothing": training.label_smoothing,
        "weight_decay": training.weight_decay,
        "clip_norm": study.training.clip_norm,
        "precision": study.training.precision,
        "checkpoint_seconds": study.training.checkpoint_seconds,
    }


def _finetuning(study: Study, calibration: Calibration, size: SizeSpec) -> dict[str, Any]:
    """Return what the finetune stage is told, beside which run; empty where nothing is finetuned."""
    if study.finetune is None:
        return {}
    return {
        **_training(study, size),
        "budgets": dict(study.budgets),
        "recovery_fraction": study.recovery_fraction,
        "warmup_fraction": study.finetune.warmup_fraction,
        "scratch": study.finetune.scratch,
        "seconds_per_step": calibration.train_step_seconds.get(size.key),
    }


def _compression(
    study: Study, calibration: Calibration, size: SizeSpec, family: Family, *, matches: list[str]
) -> dict[str, Any]:
    """Return what a stage that makes a family's recipes of a model of this size is told, beside which model."""
    seconds: dict[str, dict[str, float | None]] = {}
    for needed in steps_of_family(size, family):
        teacher = None if needed.teacher is None else needed.teacher.key
        place = word_key(needed.size.key, teacher) if teacher else needed.size.key
        seconds.setdefault(needed.kind, {})[place] = calibration.seconds(needed.kind, needed.size.key, teacher)
    return {
        **_training(study, size),
        "matches": [match for match in matches if family.matches is None or match in family.matches],
        "budgets": dict(study.budgets),
        "recovery_fraction": study.recovery_fraction,
        "seconds_per_step": seconds,
        "recipes": {
            name: {"branch": family.branch_of(name), "steps": [step.model_dump() for step in steps]}
            for name, steps in family.recipes.items()
        },
    }


def expand(study: Study, calibration: Calibration) -> Entries:
    """Return {stage kind: {key: entry}}; seconds a step that were not calibrated are None."""
    plan = planned(study)
    name = study.name
    keys = [key for key, _, _ in plan.runs]
    student_keys = [key for key, *_ in plan.students]
    candidates = teacher_candidates(study)
    matches: list[str] = sorted(study.budgets, reverse=True)
    table = recipe_table(study)
    entries: Entries = {kind: {} for kind in KINDS}
    entries["prepare"][name] = {"study": name, **study.corpus.model_dump(exclude_none=True)}
    finetuned = study.finetune is not None
    task = "classification" if finetuned else study.task
    folders = {"trained_in": "finetune" if finetuned else "pretrain"}
    scratch = {"scratch": study.finetune.scratch} if study.finetune else {}
    for key, trained, seed in plan.runs:
        size = study.recipe_parent(trained)
        common = _common(study, size, task=task, seed=seed)
        entries["pretrain"][key] = {
            **_common(study, trained, task=study.task, seed=seed),
            **_training(study, trained),
            "budgets": dict(study.budgets),
            "recovery_fraction": study.recovery_fraction,
            **({"finetune_fraction": study.finetune.fraction} if study.finetune else {}),
            "warmup_steps": study.training.warmup_steps,
            "decay_fraction": study.training.decay_fraction,
            "validate_points": study.training.validate_points,
            "seconds_per_step": calibration.train_step_seconds.get(trained.key),
        }
        if finetuned:
            entries["finetune"][key] = {**common, "run": key, **_finetuning(study, calibration, size)}
        families = families_of(study, trained, seed)
        for family_name, family in families.items():
            entries[family.stage][f"{key}-{family_name}"] = {
                **common,
                "run": key,
                "parent": f"{folders['trained_in']}/{key}",
                "family": family_name,
                **_compression(study, calibration, size, family, matches=matches),
            }
        mine = {recipe: facts for recipe, facts in table.items() if facts["family"] in families}
        resamples = {"resamples": study.report.resamples} if finetuned else {}
        entries["evaluate"][key] = {**common, **folders, **scratch, **resamples, "matches": matches, "recipes": mine}
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
    for key, student, seed in plan.students:
        size = study.size(student.size)
        common = {
            **_common(study, size, task=study.task, seed=seed),
            "method": student.method,
            "init": student.init,
            "teaching": student.teaching,
        }
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
            "teacher_seconds_per_step": {} if student.method == "sequence" else teachers,
        }
        for family_name, family in study.recipes.items():
            if family.students:
                entries[family.stage][f"{key}-{family_name}"] = {
                    **common,
                    "run": key,
                    "parent": f"distill/{key}",
                    "family": family_name,
                    **_compression(study, calibration, size, family, matches=["seconds"]),
                }
        mine = {recipe: facts for recipe, facts in table.items() if facts["students"]}
        entries["evaluate_students"][key] = {**common, "matches": ["seconds"], "recipes": mine}
    shared = {
        "study": name,
        "task": task,
        "runs": keys,
        "students": student_keys,
        "matches": matches,
        "recipes": table,
        **folders,
        **scratch,
    }
    # Every folder of models is named, so that a node that runs a stage is given it.
    further = {"further_in": "distill" if plan.students else "pretrain"}
    search = {} if finetuned else study.translate.model_dump()
    comparison = {"limits": study.report.limits, "resamples": study.report.resamples}
    if not finetuned:
        entries["translate_test"][name] = {**shared, **further, **comparison, **search}
    entries["engines"][name] = {
        **shared,
        **further,
        "resamples": study.report.resamples,
        **study.engines.model_dump(),
        **search,
    }
    entries["time"][name] = {**shared, **further, **study.time.model_dump(), **search}
    entries["report"][name] = {
        **shared,
        "outputs_in": "finetune" if finetuned else "translate/test",
        "quality_name": "accuracy" if finetuned else "BLEU",
        **({"finetune_fraction": study.finetune.fraction} if study.finetune else {}),
        **study.report.model_dump(exclude={"confounds"}),
        "confounds": [*study.report.confounds, *_edge_notes(study)],
        "budgets": dict(study.budgets),
        "recovery_fraction": study.recovery_fraction,
        "plain_of_student": {
            key: pretrain_key(study, study.size(student.size), seed) for key, student, seed in plan.students
        },
    }
    return entries


def _edge_notes(study: Study) -> list[str]:
    rates = {"": study.training.learning_rate} | (
        {" of finetuning": study.finetune.learning_rate} if study.finetune else {}
    )
    return [
        f"The best learning rate{of_what} tried at d_model {width} lay at the edge of its grid; a better one may lie beyond."
        for of_what, rate in rates.items()
        for width in rate.edges
    ]
