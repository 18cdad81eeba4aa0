"""Which steps a study takes, read off its recipes, and where a calibration keeps their seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipeline.calibration import Calibration
from pipeline.files import write_json
from pipeline.recipes import Family
from pipeline.size import SizeSpec
from pipeline.steps_needed import StepKind, steps_needed, steps_of_family
from pipeline.study import Study, load_study

WIDE = SizeSpec(d_model=128, num_layers=2)


def _named(needed: list[StepKind]) -> set[tuple[str, str]]:
    names = [(step.kind, step.key) for step in needed]
    assert len(set(names)) == len(names), "each once"
    return set(names)


def _of(*steps: dict[str, Any]) -> set[tuple[str, str]]:
    return _named(steps_of_family(WIDE, TypeAdapter(Family).validate_python({"recipes": {"one": list(steps)}})))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"method": "uniform", "bits": 4}], set()),
        ([{"method": "magnitude", "sparsity": 0.5}], set()),
        ([{"method": "finetune"}], {("train", "w128x2")}),
        ([{"method": "qat", "bits": 3}, {"method": "activations"}], {("qat", "w128x2"), ("train", "w128x2")}),
        ([{"method": "gptq", "bits": 3}], {("train", "w128x2")}),
        ([{"method": "magnitude", "sparsity": 0.5, "rounds": 3}], {("finetune", "w128x2")}),
        ([{"method": "magnitude", "sparsity": 0.5}, {"method": "finetune"}], {("finetune", "w128x2")}),
        ([{"method": "magnitude", "sparsity": 0.0}, {"method": "finetune"}], {("train", "w128x2")}),
        ([{"method": "magnitude", "sparsity": 0.5}, {"method": "qat", "bits": 3}], {("qat", "w128x2")}),
        ([{"method": "wanda", "sparsity": 0.5}], {("train", "w128x2")}),
        (
            [{"method": "ffn", "fraction": 0.5}, {"method": "distill"}],
            {("train", "w128x2f256"), ("word", "w128x2f256<-w128x2")},
        ),
        (
            [{"method": "heads", "fraction": 0.5}, {"method": "finetune"}, {"method": "qat", "bits": 4}],
            {("train", "w128x2h2d32"), ("qat", "w128x2h2d32")},
        ),
        (
            [{"method": method, "fraction": 0.5} for method in ("layers", "width", "ffn")] + [{"method": "finetune"}],
            {("train", "w64x1")},
        ),
        (
            [{"method": "magnitude", "sparsity": 0.9, "rounds": 2, "recovery": "distill"}],
            {("train", "w128x2"), ("finetune", "w128x2"), ("word", "w128x2<-w128x2")},
        ),
    ],
)
def test_a_recipe_needs_the_steps_that_it_takes(steps: list[dict[str, Any]], expected: set[tuple[str, str]]) -> None:
    assert _of(*steps) == expected


@pytest.fixture
def study() -> Study:
    """The committed smoke study, with a family of its own for the wide size."""
    return load_study("configs/smoke.yaml")


def _changed(study: Study, recipes: dict[str, Any], students: list[dict[str, Any]]) -> Study:
    data = study.model_dump(exclude_unset=True)
    everywhere = {"recipes": {"q8": [{"method": "uniform", "bits": 8}]}, "students": True}
    return Study.model_validate(
        data | {"recipes": {"rtn": everywhere} | recipes, "distill": data["distill"] | {"students": students}}
    )


def test_a_study_needs_its_sizes_its_students_and_its_recipes(study: Study) -> None:
    narrow, wide = study.sizes
    pruned = {"sizes": [wide.key], "recipes": {"half": [{"method": "ffn", "fraction": 0.5}, {"method": "finetune"}]}}
    aware = {"recipes": {"qat": [{"method": "qat", "bits": 2}]}}
    changed = _changed(study, {"pruned": pruned, "aware": aware}, [{"size": narrow.key, "method": "both"}])
    assert _named(steps_needed(changed, teachers=[wide])) == {
        ("train", "w16x1"),
        ("train", "w32x1"),
        ("word", "w16x1<-w32x1"),
        ("train", "w32x1f64"),
        ("qat", "w16x1"),
        ("qat", "w32x1"),
    }


def test_students_of_sequences_need_no_teacher_beside_them(study: Study) -> None:
    changed = _changed(study, {}, [{"size": "w16x1", "method": "sequence"}])
    assert _named(steps_needed(changed, teachers=[study.sizes[1]])) == {("train", "w16x1"), ("train", "w32x1")}


def test_a_shape_that_is_a_size_of_the_grid_is_measured_once_as_the_grid_has_it(study: Study) -> None:
    small = SizeSpec(d_model=16, num_layers=1, num_heads=1, seeds=1)
    large = SizeSpec(d_model=16, num_layers=2, num_heads=1, seeds=2, dropout=0.3)
    family = {
        "sizes": [large.key],
        "recipes": {"half": [{"method": "layers", "fraction": 0.5}, {"method": "finetune"}]},
    }
    data = study.model_dump(exclude_unset=True) | {
        "sizes": [size.model_dump(exclude_unset=True) for size in (small, large)]
    }
    changed = _changed(Study.model_validate(data | {"recipes": {"rtn": data["recipes"]["rtn"]}, "distill": {}}), {}, [])
    changed = _changed(changed, {"pruned": family}, [])
    [needed] = [step for step in steps_needed(changed, teachers=[]) if step.key == "w16x1"]
    assert needed.size == small


def test_seconds_are_found_by_kind_and_shape_in_files_old_and_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.calibration.FOLDER", tmp_path)
    old = {"train_step_seconds": {"w8x1": 1.0}, "word_step_seconds": {"w8x1<-w16x1": 3.0}, "machine": {"cores": 2}}
    write_json(tmp_path / "old.json", old)
    write_json(tmp_path / "new.json", old | {"qat_step_seconds": {"w8x1": 1.5}})
    before, after = Calibration.load("old"), Calibration.load("new")
    assert before.seconds("qat", "w8x1") is None
    assert after.seconds("qat", "w8x1") == 1.5
    for calibration in (before, after):
        assert calibration.seconds("train", "w8x1") == 1.0
        assert calibration.seconds("finetune", "w8x1") is None
        assert calibration.seconds("word", "w8x1", "w16x1") == 3.0
        assert calibration.seconds("word", "w8x1", "w32x1") is None
    assert Calibration.load("none").seconds("train", "w8x1") is None
