"""Early and late branches compressed alike: which recipes pair up, and by how much the late one loses more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.early_and_late import compressed_alike, early_and_late, early_and_late_sentence
from pipeline.analysis.measures import measure
from tests.analysis.synthetic import measured, report_entry

RECIPES = ("q8", "q4", "q3", "q4tensor", "gptq3", "p50", "p50q4", "qat3", "once50", "early", "early4", "early3")
ADDED = {"q4": 0.10, "early4": 0.06, "q3": 0.30, "early3": 0.35}


def entry(**changes: Any) -> dict[str, Any]:
    alone: dict[str, Any] = {"sizes": ["w32x2", "w64x2"], "students": [], "plain_of_student": {}, "recipes": RECIPES}
    return report_entry(**(alone | changes))


def table(told: dict[str, Any]) -> pd.DataFrame:
    """Return a world where the whole model has a loss of 2, the early one 2.2, and `ADDED` comes on top, with a seed's luck."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        early = row["recipe"].startswith("early")
        luck = 0.002 * (row["seed"] - 1) if row["recipe"] == "q4" else 0.0
        return row | {"test_loss": 2.0 + 0.2 * early + ADDED.get(row["recipe"], 0.0) + luck}

    return measured(told, change=change)


def found(told: dict[str, Any]) -> list[dict[str, Any]]:
    frame = table(told)
    losses = frame.set_index("run_id")["test_loss"]
    loss = measure(
        frame, "test_loss", sign=-1, draws=lambda name: np.full(50, losses[name]), threshold=0.01, relative=True
    )
    return early_and_late(frame, told["recipes"], loss, components=50)


def test_only_what_does_the_same_to_both_branches_and_trains_no_further_is_paired() -> None:
    pairs = compressed_alike(table(entry()), entry()["recipes"])
    assert set(zip(pairs["recipe_early"], pairs["recipe_late"], strict=True)) == {("early4", "q4"), ("early3", "q3")}
    assert len(pairs) == 2 * 2 * 2 * 3  # recipes, sizes, matches, seeds
    one = pairs[pairs["run_id_early"] == "toy-w64x2-s1-flops-early4"].iloc[0]
    assert (one["parent_early"], one["parent_late"]) == ("toy-w64x2-s1-flops-early", "toy-w64x2-s1-flops-fp32")


def test_differences_are_of_what_is_added_and_positive_where_the_late_branch_loses_more() -> None:
    lines = {(line["match"], line["size"], line["late"]): line for line in found(entry())}
    four, three = lines["seconds", "w64x2", "q4"], lines["seconds", "w64x2", "q3"]
    assert (four["added_early"], four["added_late"]) == (pytest.approx(0.06), pytest.approx(0.10))
    assert four["difference"] == pytest.approx(0.04)
    assert three["difference"] == pytest.approx(-0.05)
    assert (four["kind"], four["bits"], four["sparsity"], four["seeds"]) == ("uniform", 4, None, 3)
    assert four["tokens_per_param_early"] < four["tokens_per_param_late"]
    # luck of 0.002 a seed: variance 4e-6 over 3 seeds, pooled over two sizes (4 degrees), t 2.776
    assert four["high"] - four["difference"] == pytest.approx(2.776 * (4e-6 / 3) ** 0.5, rel=1e-3)


def test_one_seed_has_no_interval() -> None:
    only = {"seeds": 1, "matches": ["seconds"]}
    lines = found(entry(limited=dict.fromkeys(("early", "early4", "early3"), only)))
    assert {line["seeds"] for line in lines} == {1}
    assert {line["low"] for line in lines} == {None}


def test_without_the_early_model_itself_nothing_is_known() -> None:
    assert found(entry(recipes=("q8", "q4", "early4"))) == []
    assert "No recipe of this study" in early_and_late_sentence([])


def test_the_sentence_counts() -> None:
    text = early_and_late_sentence(found(entry()))
    assert "in 4 of 8 cases (intervals without 0: 4 more, 4 less)" in text
