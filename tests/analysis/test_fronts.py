"""Fronts along bytes and FLOPs, on tables whose front is known."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.analysis.fronts import front_sentence, fronts
from pipeline.analysis.kinds import GROUP_MARKERS, group_of
from pipeline.recipes import kind_of
from tests.analysis.synthetic import RECIPES, measured, report_entry, steps_of

NOBODY: dict[str, Any] = {"students": [], "plain_of_student": {}}


def test_the_front_of_bytes_is_chosen_on_validation_and_reported_on_test() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"], recipes=["q8", "q4", "p50"], **NOBODY)
    loss = {"w32x2/q4": 3.0, "w32x2/q8": 2.9, "w64x2/q4": 2.0, "w64x2/fp32": 1.9}

    def change(row: dict[str, Any]) -> dict[str, Any]:
        valid = loss.get(row["config_id"], 4.0)
        return row | {"valid_loss": valid, "test_loss": 10 - valid + 0.1 * row["seed"]}

    bytes_front = fronts(measured(entry, change=change))[0]
    assert bytes_front["axis"] == "size_bytes"
    assert [member["config_id"] for member in bytes_front["members"]] == list(loss)
    assert bytes_front["configurations"] == 2 * 4
    assert bytes_front["by_kind"] == {"uniform": 3, "none": 1}
    first = bytes_front["members"][0]
    assert (first["kind"], first["seeds"]) == ("uniform", 3)
    assert first["test_loss"] == pytest.approx(7.1)
    assert first["test_loss_sd"] == pytest.approx(0.1)
    assert front_sentence(bytes_front) == (
        "Of 8 configurations 4 are on the front along bytes of the file: uniform 3, fp32 1."
    )


def test_along_flops_rounding_wins_nothing_and_smaller_shapes_do() -> None:
    entry = report_entry(sizes=["w64x2"], recipes=["q8", "width50", "p50"], **NOBODY)
    losses = {"fp32": 2.0, "q8": 1.0, "width50": 2.5, "p50": 2.4}
    frame = measured(entry, lambda match, size, recipe: losses[recipe])
    _, along, unmasked = fronts(frame)
    assert along["axis"] == "infer_flops_per_token"
    assert along["configurations"] == 3
    assert [member["recipe"] for member in along["members"]] == ["width50", "p50", "fp32"]
    assert unmasked["configurations"] == 2
    assert unmasked["by_kind"] == {"width+ffn+finetune": 1, "none": 1}


def test_students_overruns_and_recipes_of_some_seeds_are_on_no_front() -> None:
    entry = report_entry(sizes=["w32x2", "w64x2"], recipes=["q8", "q4", "q3"], limited={"q3": {"seeds": 1}})

    def change(row: dict[str, Any]) -> dict[str, Any]:
        best = row["recipe"] in ("q3", "q4") or "word" in row["config_id"]
        spent = {"total_seconds": 400.0} if row["recipe"] == "q4" else {}
        return row | {"valid_loss": 0.5 if best else 3.0} | spent

    held = [member["recipe"] for one in fronts(measured(entry, change=change)) for member in one["members"]]
    assert held == ["q8", "fp32", "fp32"]


def test_one_seed_has_no_spread() -> None:
    entry = report_entry(sizes=["w64x2"], seeds=1, recipes=["q8"], **NOBODY)
    assert fronts(measured(entry))[0]["members"][0]["test_loss_sd"] is None


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        ("none", "fp32"),
        ("uniform+activations", "round to nearest"),
        ("gptq", "GPTQ"),
        ("qat", "QAT"),
        ("quanto", "quanto"),
        ("magnitude-global+finetune", "masks"),
        ("wanda+qat", "masks, rounded"),
        ("width+ffn+distill", "structured"),
        ("layers+magnitude+distill+uniform", "structured, rounded"),
        ("finetune", "trained on"),
    ],
)
def test_kinds_fall_into_groups_that_have_a_marker(kind: str, group: str) -> None:
    assert group_of(kind) == group
    assert group in GROUP_MARKERS


def test_markers_differ_and_every_kind_has_one() -> None:
    assert len(set(GROUP_MARKERS.values())) == len(GROUP_MARKERS)
    assert {group_of(kind_of(steps_of(recipe))) for recipe in RECIPES} <= set(GROUP_MARKERS)
