"""Pruned to another size's shape, beside that size: the pairs, the sign and the seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.from_scratch import from_scratch, from_scratch_sentence, same_shape
from pipeline.analysis.measures import measure
from pipeline.analysis.task_words import WORDS
from tests.analysis.synthetic import measured, report_entry, shape

RECIPES = ("q8", "p50", "width50", "depth50kd")


def table(**changes: Any) -> pd.DataFrame:
    limited = {"width50": {"sizes": ["w64x2", "w256x2"]}, "depth50kd": {"sizes": ["w64x2", "w128x4"], "seeds": 2}}
    entry = report_entry(students=[], plain_of_student={}, recipes=RECIPES, limited=limited)

    def change(row: dict[str, Any]) -> dict[str, Any]:
        gain = {"width50": -0.3, "depth50kd": 0.2}.get(row["recipe"], 0.0) + 0.001 * shape(row["size"]).d_model * row[
            "seed"
        ] / 32
        return row | {"test_loss": 2.0 - gain} | changes.get(row["run_id"], {})

    return measured(entry, change=change)


def found(frame: pd.DataFrame) -> list[dict[str, Any]]:
    losses = frame.set_index("run_id")["test_loss"]
    by_loss = measure(
        frame, "test_loss", sign=-1, draws=lambda name: np.full(50, losses[name]), threshold=0.01, relative=True
    )
    return from_scratch(frame, by_loss, components=50)


def test_pairs_have_the_same_shape_and_no_masks_and_no_rounding() -> None:
    pairs = same_shape(table())
    assert set(zip(pairs["config_id"], pairs["scratch"], strict=True)) == {
        ("w64x2/width50", "w32x2"),
        ("w256x2/width50", "w128x2"),
        ("w128x4/depth50kd", "w128x2"),
    }
    assert list(pairs["match"].unique()) == ["seconds", "flops"]


def test_differences_favour_pruning_where_they_are_positive_over_common_seeds() -> None:
    pairs = {(pair["match"], pair["pruned"]): pair for pair in found(table())}
    width, depth = pairs["seconds", "w256x2/width50"], pairs["seconds", "w128x4/depth50kd"]
    assert depth["difference"] == pytest.approx(0.2)
    assert (depth["seeds"], depth["scratch"]) == (2, "w128x2/fp32")
    assert width["seeds"] == 3
    # width50's loss is 0.3 higher, and each seed's luck differs by 0.001 x (256 - 128) / 32
    assert width["difference"] == pytest.approx(-0.3 + 0.004)
    assert width["low"] < width["difference"] < width["high"] < 0


def test_a_pair_that_lost_a_seed_is_left_out() -> None:
    frame = table(**{"toy-w64x2-s1-seconds-width50": {"status": "diverged", "test_loss": None}})
    assert ("seconds", "w64x2/width50") not in {(pair["match"], pair["pruned"]) for pair in found(frame)}


def test_the_sentence_counts() -> None:
    pairs = found(table())
    text = from_scratch_sentence(pairs, words=WORDS["translation"])
    assert "lower test loss than trained from scratch with the same total in 2 of 6 pairs" in text
    assert (
        from_scratch_sentence([], words=WORDS["translation"])
        == "No recipe of this study prunes a size to the shape of another."
    )
