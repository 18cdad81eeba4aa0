"""What rounding error goes with, on tables where it goes with one thing alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pipeline.analysis.why import CAUSES, correlations, finding, rounded, size_pairs, stratified_tau
from tests.analysis.synthetic import measured, report_entry

RECIPES = ("q8", "q4", "q3", "q4tensor", "gptq3", "early", "early4", "early3")


def rows(error: Callable[[dict[str, Any]], float]) -> pd.DataFrame:
    entry = report_entry(students=[], plain_of_student={}, recipes=RECIPES)
    return rounded(measured(entry, change=lambda row: row | ({"weight_error": error(row)} if row["bits"] else {})))


def two_sizes(**wider: int) -> pd.DataFrame:
    """Return rows of w64x2 and of w128x2, whose shape `wider` changes."""
    entry = report_entry(sizes=["w64x2", "w128x2"], students=[], plain_of_student={}, recipes=("q4",))
    frame = measured(entry, change=lambda row: row | ({"weight_error": 0.1} if row["bits"] else {}))
    for name, value in wider.items():
        frame.loc[frame["size"] == "w128x2", name] = value
    return rounded(frame)


def taus(frame: pd.DataFrame) -> dict[tuple[str, str, int], float | None]:
    return {(one["cause"], one["measure"], one["bits"]): one["tau"] for one in correlations(frame)}


def test_only_rounding_to_nearest_a_row_from_both_branches_counts() -> None:
    frame = rows(lambda row: 0.1)
    assert set(frame["recipe"]) == {"q4", "q3", "early4", "early3"}
    assert set(frame.loc[frame["recipe"].isin(["early4", "early3"]), "branch"]) == {"early"}
    assert set(frame.loc[frame["recipe"].isin(["q4", "q3"]), "branch"]) == {"full"}
    assert frame.loc[frame["recipe"] == "early4", "added"].notna().all()


def test_width_is_told_from_depth_and_from_training() -> None:
    found = taus(rows(lambda row: 1 / row["d_model"]))
    assert found["d_model", "weight_error", 4] == found["d_model", "weight_error", 3] == -1
    assert found["num_layers", "weight_error", 4] == 0
    assert found["tokens_per_param", "weight_error", 4] == 0


def test_pairs_are_of_the_sizes_that_grids_hold() -> None:
    """A narrower head or FFN is another difference: such sizes stand in no wide grid, and no pair is made of them."""
    found = [two_sizes(), two_sizes(ffn_dim=256), two_sizes(num_heads=8)]
    strata = CAUSES["d_model"][1]
    assert [size_pairs(frame, "d_model", "weight_error", strata) for frame in found] == [1, 0, 0]
    assert [stratified_tau(frame, "d_model", "weight_error", strata)[1] > 0 for frame in found] == [True, False, False]


def test_depth_is_told_from_width() -> None:
    found = taus(rows(lambda row: float(row["num_layers"])))
    assert found["num_layers", "weight_error", 3] == 1
    assert found["d_model", "weight_error", 3] == 0


def test_training_is_told_from_size() -> None:
    found = taus(rows(lambda row: row["tokens_per_param"]))
    assert found["tokens_per_param", "weight_error", 4] == 1


def test_tau_counts_pairs_within_strata_alone() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3, 1, 2], "y": [3.0, 2.0, 2.0, 1.0, 5.0], "g": list("aaabb")})
    assert stratified_tau(frame, "x", "y", ["g"]) == (pytest.approx(-1 / 4), 4)  # two down, one tie; one up
    assert stratified_tau(frame, "x", "y", ["g", "x"]) == (None, 0)


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ((-1.0, -0.5), "With width, weight error falls (tau \u22121.00 at 4 bits, \u22120.50 at 3 bits)"),
        ((0.1, 0.9), "With width, weight error hardly changes or rises (tau +0.10 at 4 bits, +0.90 at 3 bits)"),
        ((None, None), "No two models differ in width alone"),
    ],
)
def test_titles_say_what_the_correlations_say(values: tuple[float | None, ...], title: str) -> None:
    found = [
        {"cause": "d_model", "measure": "weight_error", "bits": bits, "tau": tau}
        for bits, tau in zip((4, 3), values, strict=True)
    ]
    assert finding(found, "d_model", "weight_error") == title
