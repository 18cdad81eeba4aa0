"""Every model that an entry asks for, once, in the table's order, and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.expected import expected_models


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "family": "rtn", "method": "quantize", "sizes": ["w32x2", "w64x2"], "matches": ["seconds", "flops"], "seeds": None,
        "students": False,
    } | changes  # fmt: skip


def entry(**recipes: dict[str, Any]) -> dict[str, Any]:
    runs = [f"toy-{size}-s{seed}" for size in ("w32x2", "w64x2") for seed in range(2)]
    return {"runs": runs, "students": ["toy-w32x2-word-s0"], "matches": ["seconds", "flops"], "recipes": recipes}


def of(recipe: str, **recipes: dict[str, Any]) -> list[str]:
    return [model.run_id for model in expected_models(entry(**recipes)) if model.run_id.endswith(f"-{recipe}")]


def test_fp32_is_expected_of_every_run_and_match_and_of_every_student() -> None:
    models = expected_models(entry())
    assert len(models) == 4 * 2 + 1
    assert models[0].run_id == "toy-w32x2-s0-seconds-fp32"
    assert (models[0].method, models[0].folder) == ("none", Path("pretrain/toy-w32x2-s0/seconds"))
    assert models[-1].run_id == "toy-w32x2-word-s0-seconds-fp32"
    assert (models[-1].method, models[-1].folder) == ("distill", Path("distill/toy-w32x2-word-s0/seconds"))


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (
            {},
            [
                f"toy-{size}-s{seed}-{match}-x1"
                for size in ("w32x2", "w64x2")
                for seed in (0, 1)
                for match in ("seconds", "flops")
            ],
        ),
        ({"sizes": ["w64x2"], "matches": ["flops"]}, ["toy-w64x2-s0-flops-x1", "toy-w64x2-s1-flops-x1"]),
        ({"seeds": 1, "matches": ["seconds"]}, ["toy-w32x2-s0-seconds-x1", "toy-w64x2-s0-seconds-x1"]),
    ],
)
def test_a_recipe_is_expected_where_it_applies(limits: dict[str, Any], expected: list[str]) -> None:
    assert of("x1", x1=facts(**limits)) == expected


def test_students_get_the_recipes_that_are_for_them_at_equal_seconds() -> None:
    recipes = {"x1": facts(students=True, seeds=1), "x2": facts()}
    made = [model for model in expected_models(entry(**recipes)) if "-word-" in model.run_id]
    assert [model.run_id for model in made] == ["toy-w32x2-word-s0-seconds-fp32", "toy-w32x2-word-s0-seconds-x1"]
    assert (made[1].method, made[1].folder) == ("distill+quantize", Path("compressed/toy-w32x2-word-s0/rtn/seconds-x1"))


def test_what_is_finetuned_lies_there_and_has_one_without_pretraining_beside_it() -> None:
    finetuned = entry(x1=facts()) | {"students": [], "trained_in": "finetune", "scratch": True}
    models = [model for model in expected_models(finetuned) if model.run_id.startswith("toy-w32x2-s0-seconds-")]
    assert [(model.run_id.rpartition("-")[2], model.method, model.folder.as_posix()) for model in models] == [
        ("fp32", "none", "finetune/toy-w32x2-s0/seconds"),
        ("scratch", "none", "finetune/toy-w32x2-s0/seconds-scratch"),
        ("x1", "quantize", "compressed/toy-w32x2-s0/rtn/seconds-x1"),
    ]
    without = expected_models(finetuned | {"scratch": False})
    assert [model.run_id for model in without] == [
        model.run_id for model in expected_models(finetuned) if not model.run_id.endswith("-scratch")
    ]


def test_a_runs_models_stand_together_fp32_first() -> None:
    models = [model.run_id for model in expected_models(entry(x1=facts(), x2=facts(matches=["seconds"])))]
    assert models[:5] == [
        f"toy-w32x2-s0-{rest}" for rest in ("seconds-fp32", "seconds-x1", "seconds-x2", "flops-fp32", "flops-x1")
    ]
    assert len(models) == len(set(models))
