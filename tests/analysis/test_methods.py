"""What compression adds, and methods side by side, on tables whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.analysis.damage import added_to_dense, added_to_parent, is_dense, one_grid
from pipeline.analysis.methods import methods_table, side_by_side
from pipeline.analysis.robustness_figures import robustness
from tests.analysis.synthetic import measured, report_entry

NOBODY: dict[str, Any] = {"students": [], "plain_of_student": {}}
ADDED = {
    "fp32": 0.0, "q8": 0.01, "q3": 0.3, "gptq3": 0.1, "qat3": 0.4, "q4": 0.04, "q4tensor": 0.5, "p50": 0.1, "once50": 0.6,
    "wanda50": 0.4, "early": 0.05, "early4": 0.08, "early3": 0.25,
}  # fmt: skip


def by_seed(row: dict[str, Any]) -> dict[str, Any]:
    """Add to every model what its seed's luck is, so that only a comparison by seed is right."""
    return row | {"test_loss": row["test_loss"] + row["seed"]}


def truth(match: str, size: str, recipe: str) -> float:
    return 2.0 + ADDED[recipe]


def test_loss_is_added_to_the_fp32_model_of_the_same_seed() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"], recipes=["q8", "early"])
    frame = measured(entry, lambda match, size, recipe: 2.0 + ADDED[recipe], change=by_seed)
    added = added_to_dense(frame)
    for recipe in ("fp32", "q8", "early"):
        mine = added[(frame["recipe"] == recipe) & frame["teaching"].isna()]
        assert mine.to_numpy() == pytest.approx(ADDED[recipe])
    assert added[frame["teaching"].notna()].isna().all()
    assert set(frame.loc[is_dense(frame), "kind"]) == {"none"}
    assert is_dense(frame).sum() == 2 * 3 * 2


def test_the_early_branchs_rows_are_held_against_the_early_branch() -> None:
    entry = report_entry(sizes=["w64x2"], recipes=["q3", "early", "early3"], **NOBODY)
    frame = measured(entry, truth, change=by_seed)
    added = added_to_parent(frame)
    assert added[frame["recipe"] == "q3"].to_numpy() == pytest.approx(0.3)
    assert added[frame["recipe"] == "early3"].to_numpy() == pytest.approx(0.2)
    without = measured(report_entry(sizes=["w64x2"], recipes=["early3"], **NOBODY), truth)
    assert added_to_parent(without)[without["recipe"] == "early3"].isna().all()


def test_every_recipe_stands_in_the_table_beside_those_of_its_strength() -> None:
    limited = {"once50": {"seeds": 1, "matches": ["seconds"], "sizes": ["w64x2"]}}
    entry = report_entry(sizes=["w32x2", "w64x2"], recipes=["p50", "q3", "once50", "gptq3", "q8"], limited=limited)
    table = methods_table(measured(entry, truth, change=by_seed))
    assert [line["recipe"] for line in table] == ["q8", "gptq3", "q3", "once50", "p50"]
    once = table[3]
    assert (once["kind"], once["sizes"], once["seeds"], once["bits"]) == ("magnitude", ["w64x2"], 1, None)
    assert once["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert once["added"] == {"w64x2": pytest.approx(0.6)}
    assert table[2]["added"] == {"w32x2": pytest.approx(0.3), "w64x2": pytest.approx(0.3)}
    assert table[2]["seeds"] == 3
    assert table[2]["zstd_ratio"] == pytest.approx(0.9, abs=1e-4)


def test_methods_meet_at_the_same_strength_only() -> None:
    recipes = ["early3", "q8", "q4", "q3", "q4tensor", "gptq3", "qat3", "once50", "wanda50", "p50"]
    entry = report_entry(sizes=["w32x2", "w64x2"], recipes=recipes, limited={"wanda50": {"seeds": 1}}, **NOBODY)

    def change(row: dict[str, Any]) -> dict[str, Any]:
        return by_seed(row) | ({"test_loss": 9.0} if row["config_id"] == "w32x2/wanda50" else {})

    found = {line["kind"]: line for line in side_by_side(measured(entry, truth, change=change))}
    assert set(found) == {"gptq", "qat", "wanda"}
    assert (found["gptq"]["strength"], found["gptq"]["better"], found["gptq"]["sizes"]) == ("3 bits", 2, 2)
    assert found["gptq"]["gain"] == pytest.approx(0.2)
    assert (found["qat"]["better"], found["qat"]["gain"]) == (0, pytest.approx(-0.1))
    assert (found["wanda"]["strength"], found["wanda"]["better"], found["wanda"]["sizes"]) == ("50% pruned", 1, 2)


def test_robustness_is_by_seed_and_leaves_other_grids_and_the_early_branch_out() -> None:
    limited = {"once50": {"seeds": 1}, "q3": {"seeds": 1}}
    entry = report_entry(
        sizes=["w64x2"], recipes=["early", "early3", "early4", "q4tensor", "q4", "q3", "qat3", "p50", "once50"],
        limited=limited, **NOBODY,
    )  # fmt: skip
    levels = robustness(measured(entry, truth, change=by_seed)).set_index(["kind", "level"])
    assert levels["added"].to_dict() == pytest.approx(
        {
            ("uniform", 4.0): 0.04, ("uniform", 3.0): 0.3, ("qat", 3.0): 0.4, ("magnitude+finetune", 0.5): 0.1,
            ("magnitude", 0.5): 0.6,
        }
    )  # fmt: skip
    assert levels.loc[("uniform", 3.0), "seeds"] == 1
    assert levels.loc[("uniform", 4.0), "seeds"] == 3


@pytest.mark.parametrize(
    ("changed", "one"),
    [
        ({}, True),
        ({"embedding_bits": 8}, False),
        ({"embedding_bits": None}, False),
        ({"granularity": "group"}, False),
        ({"activation_bits": 8}, False),
        ({"bits": None, "embedding_bits": None, "granularity": None}, False),
    ],
)
def test_one_grid_is_one_grid_for_everything(changed: dict[str, Any], one: bool) -> None:
    entry = report_entry(sizes=["w64x2"], recipes=["q4"], **NOBODY)
    frame = measured(entry, truth, change=lambda row: row | (changed if row["recipe"] == "q4" else {}))
    assert one_grid(frame)[frame["recipe"] == "q4"].eq(one).all()
    assert not one_grid(frame)[frame["recipe"] == "fp32"].any()
