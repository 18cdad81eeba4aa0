"""What a study will cost: at a measured or an assumed speed, by stage, and on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.assumed_speed import assumed_calibration
from pipeline.budget import Budget
from pipeline.calibration import Calibration
from pipeline.expansion import expand, teacher_candidates
from pipeline.expected import expected_models
from pipeline.flops import Positions, forward_flops, parameters_total, train_flops
from pipeline.plan import STARTUP_SECONDS, plan, stage_seconds, trainings, typical_positions
from pipeline.size import SizeSpec
from pipeline.steps_needed import steps_needed
from pipeline.study import Study, load_study

PRICED = ["paper_mlm", "wmt14", "smoke", "smoke_mlm"]
GFLOPS = 250.0


@pytest.fixture(scope="module", params=PRICED)
def study(request: pytest.FixtureRequest) -> Study:
    """Studies of both tasks, run and only priced."""
    return load_study(Path("configs", f"{request.param}.yaml"))


def _left(study: Study) -> float:
    """Return the share of a budget that pretraining has."""
    return 1 - (study.finetune.fraction if study.finetune else 0.0)


def test_at_an_assumed_speed_every_kind_of_step_has_its_price(study: Study) -> None:
    calibration, twice = (assumed_calibration(study, gflops=speed) for speed in (GFLOPS, 2 * GFLOPS))
    needed = steps_needed(study, teachers=teacher_candidates(study))
    assert {step.kind for step in needed} >= {"train"}
    for step in needed:
        teacher = step.teacher.key if step.teacher else None
        seconds = calibration.seconds(step.kind, step.size.key, teacher)
        assert seconds is not None
        assert twice.seconds(step.kind, step.size.key, teacher) == pytest.approx(seconds / 2)
    assert calibration.decode_sentence_seconds == {}


def test_a_step_costs_what_its_batch_computes() -> None:
    study = load_study("configs/smoke_mlm.yaml")
    calibration = assumed_calibration(study, gflops=GFLOPS)
    words, size = study.corpus.vocab_size, study.sizes[1]
    blocks = Positions.padded(batch=32, source_length=32, target_length=32, scored=round(32 * 30 * 0.15))
    sentences = Positions.padded(batch=1000 // 64, source_length=64, target_length=1, scored=1000 // 64)
    classifier = size.changed(num_labels=2)
    flops = {
        ("train", "w32x1", None): train_flops(size, blocks, vocab_size=words),
        ("train", "w32x1c2", None): train_flops(classifier, sentences, vocab_size=words),
        ("qat", "w32x1c2", None): train_flops(classifier, sentences, vocab_size=words),
        ("word", "w32x1f64c2", "w32x1c2"): train_flops(classifier.changed(ffn_dim=64), sentences, vocab_size=words)
        + forward_flops(classifier, sentences, vocab_size=words),
    }
    for (kind, key, teacher), cost in flops.items():
        assert calibration.seconds(kind, key, teacher) == pytest.approx(cost / (GFLOPS * 1e9)), kind


def test_the_plan_makes_as_many_steps_as_pretrainings_seconds_hold(study: Study) -> None:
    rows = [row for row in plan(study, assumed_calibration(study, gflops=GFLOPS)) if row.kind == "pretrain"]
    assert len(rows) == sum(size.seeds for size in study.sizes)
    words, typical = study.corpus.vocab_size, typical_positions(study)
    seconds = Budget.parse(study.budgets["seconds"]).amount * _left(study)
    sizes = {f"{study.name}-{size.key}-s{seed}": size for size in study.sizes for seed in range(size.seeds)}
    for row in rows:
        step_flops = train_flops(sizes[row.key], typical, vocab_size=words)
        assert row.steps is not None
        assert row.train_flops == row.steps * step_flops
        assert row.steps * step_flops <= GFLOPS * 1e9 * seconds < (row.steps + 1.001) * step_flops
        assert row.params_total == parameters_total(sizes[row.key], vocab_size=words)
        assert row.params_embedding == words * sizes[row.key].d_model
        assert row.core_seconds is not None
        assert row.core_seconds > seconds


def test_uncalibrated_there_is_no_number_of_steps_or_seconds(study: Study) -> None:
    rows = [row for row in plan(study, Calibration()) if row.kind == "pretrain"]
    assert {(row.steps, row.train_flops, row.core_seconds) for row in rows} == {(None, None, None)}
    assert stage_seconds(study, Calibration()) == {}


def test_stages_are_estimated_by_the_names_that_they_have_in_the_graph(study: Study) -> None:
    calibration = assumed_calibration(study, gflops=GFLOPS)
    entries = expand(study, calibration)
    stages = {f"{kind}@{key}" for kind, keys in entries.items() for key in keys}
    estimated = stage_seconds(study, calibration)
    assert set(estimated) <= stages
    assert stages - set(estimated) == {f"engines@{study.name}"}
    assert all(seconds > 0 for seconds in estimated.values())


def test_finetuning_is_both_branches_of_each_budget_and_one_without_pretraining() -> None:
    study = load_study("configs/smoke_mlm.yaml")
    assert study.finetune is not None
    calibration = assumed_calibration(study, gflops=GFLOPS)
    given = {match: Budget.parse(text).amount for match, text in study.budgets.items()}
    budgets = [given["seconds"], given["flops"] / (GFLOPS * 1e9)]
    for stage, seconds in stage_seconds(study, calibration).items():
        if stage.startswith("finetune@"):
            assert seconds == pytest.approx(STARTUP_SECONDS + 3 * study.finetune.fraction * sum(budgets))
    alone = study.model_copy(update={"finetune": study.finetune.model_copy(update={"scratch": False})})
    seconds = stage_seconds(alone, calibration)["finetune@smoke_mlm-w16x1-s0"]
    assert seconds == pytest.approx(STARTUP_SECONDS + 2 * study.finetune.fraction * sum(budgets))


def test_a_slower_classifier_spends_its_share_of_the_flops_in_more_seconds_and_of_the_seconds_in_as_many() -> None:
    study = load_study("configs/smoke_mlm.yaml")
    assert study.finetune is not None
    fast = assumed_calibration(study, gflops=GFLOPS)
    doubled = {key: seconds * (2 if key.endswith("c2") else 1) for key, seconds in fast.train_step_seconds.items()}
    slow = replace(fast, train_step_seconds=doubled)
    flops = Budget.parse(study.budgets["flops"]).amount / (GFLOPS * 1e9)
    one, other = (stage_seconds(study, speed)["finetune@smoke_mlm-w16x1-s0"] for speed in (fast, slow))
    assert other - one == pytest.approx(3 * study.finetune.fraction * flops)
    assert stage_seconds(study, fast)["pretrain@smoke_mlm-w16x1-s0"] == pytest.approx(
        stage_seconds(study, slow)["pretrain@smoke_mlm-w16x1-s0"]
    )


def test_models_and_disk_are_those_of_the_expansion() -> None:
    """Dense models in 4 bytes a parameter: both branches of both budgets, their classifiers, and one without pretraining."""
    study = load_study("configs/smoke_mlm.yaml")
    report = expand(study, Calibration())["report"]["smoke_mlm"]
    models = [model.run_id for model in expected_models(report)]
    for row in plan(study, Calibration()):
        assert row.models == len([run_id for run_id in models if run_id.startswith(f"{row.key}-")])
        assert row.disk_bytes == row.params_total * (4 * 2 * (2 + 3) + row.models)


def test_a_full_batch_of_text_is_whole_blocks_some_of_whose_words_are_scored() -> None:
    study = load_study("configs/paper_mlm.yaml")
    typical = typical_positions(study)
    assert typical.source == study.training.batch_tokens == 8192 * 128
    assert typical.source_pairs == 8192 * 128**2
    assert typical.scored == round(8192 * 126 * 0.15)
    size = SizeSpec(architecture="encoder", d_model=768, num_layers=12, num_heads=12, positions=128)
    body = 12 * (8 * 768**2 + 16 * 768**2) * typical.source + 12 * 4 * 768 * typical.source_pairs
    whole = forward_flops(size, typical, vocab_size=50265)
    assert body < whole < 1.2 * body


def test_recipes_that_share_their_first_steps_train_once() -> None:
    families = load_study("configs/smoke_mlm.yaml").recipes
    assert {name: trainings(family) for name, family in families.items()} == {
        "rtn": 0, "early": 0, "weighed": 0, "qat": 1, "magnitude": 2, "structured": 1,
    }  # fmt: skip
