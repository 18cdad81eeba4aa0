"""With and without pretraining: signs, intervals, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.measures import measure
from pipeline.analysis.table import assemble
from pipeline.analysis.task_words import WORDS
from pipeline.analysis.what_pretraining_brought import what_pretraining_brought, what_pretraining_brought_sentence
from pipeline.expected import expected_models
from tests.analysis.synthetic_classification import classification_entry, classifier_row

ENTRY = classification_entry(sizes=["w32x2", "w64x2"], recipes=("q8",))
BROUGHT = {"w32x2": 5.0, "w64x2": 8.0}


def table(**changes: dict[str, Any]) -> pd.DataFrame:
    """Return a table where pretraining brings `BROUGHT` points and a hundredth of that in loss, and seeds differ a little."""
    rows = []
    for run_id in (model.run_id for model in expected_models(ENTRY)):
        row = classifier_row(run_id, 0.5)
        luck = 0.2 * (row["seed"] - 1) * (1 if row["recipe"] == "scratch" else -1)
        gain = 0.0 if row["recipe"] == "scratch" else BROUGHT[row["size"]]
        row |= {"quality": 60 + gain + luck, "test_loss": 0.7 - gain / 100 - luck / 100}
        rows.append(row | changes.get(run_id, {}))
    return assemble(ENTRY, rows, {}, {})


def found(frame: pd.DataFrame) -> list[dict[str, Any]]:
    by_run = frame.set_index("run_id")
    quality, loss = (
        measure(
            frame,
            column,
            sign=sign,
            draws=lambda name, column=column: np.full(50, by_run.loc[name, column]),
            threshold=0.3,
        )
        for column, sign in (("quality", 1), ("test_loss", -1))
    )
    return what_pretraining_brought(frame, quality=quality, loss=loss, components=50)


def test_what_it_brings_is_positive_in_both_measures_with_intervals() -> None:
    lines = {(line["match"], line["size"]): line for line in found(table())}
    assert list(lines) == [("seconds", "w32x2"), ("seconds", "w64x2"), ("flops", "w32x2"), ("flops", "w64x2")]
    one = lines["seconds", "w64x2"]
    assert one["quality"]["difference"] == pytest.approx(8.0)
    assert one["loss"]["difference"] == pytest.approx(0.08)
    assert (one["pretrained"]["quality"], one["scratch"]["quality"]) == (pytest.approx(68), pytest.approx(60))
    assert one["pretrained"]["config_id"] == "w64x2/fp32"
    # luck differs by 0.4 a seed between the two: variance 0.16, pooled over two sizes (4 degrees), t 2.776
    half = 2.776 * (0.16 / 3) ** 0.5
    assert one["quality"]["high"] - one["quality"]["difference"] == pytest.approx(half, rel=1e-3)
    assert one["quality"]["seeds"] == 3


def test_a_size_that_lacks_a_seed_is_left_out() -> None:
    frame = table(**{"toy-w64x2-s1-flops-scratch": {"status": "diverged", "quality": None, "test_loss": None}})
    assert ("flops", "w64x2") not in {(line["match"], line["size"]) for line in found(frame)}
    assert found(frame[frame["recipe"] != "scratch"]) == []


@pytest.mark.parametrize(
    ("falls", "text"),
    [
        (
            (-0.02, 0.01),
            "test loss rises by up to 0.020 and falls by up to 0.010 nats, with intervals above 0 at 0 of 2.",
        ),
        ((-0.04, -0.02), "test loss rises by 0.020 to 0.040 nats, with intervals above 0 at 0 and below 0 at 2 of 2."),
    ],
)
def test_a_loss_that_rises_is_said_to(falls: tuple[float, float], text: str) -> None:
    wide = 0.1 if max(falls) > 0 else 0.001
    lines = [
        {
            "size": "w64x2",
            "match": "seconds",
            "quality": {"difference": 1.0, "low": None, "high": None},
            "loss": {"difference": fall, "low": fall - wide, "high": fall + wide},
        }
        for fall in falls
    ]
    assert text in what_pretraining_brought_sentence(lines, words=WORDS["classification"])


def test_the_sentence_gives_the_range_and_counts_what_is_sure() -> None:
    text = what_pretraining_brought_sentence(found(table()), words=WORDS["classification"])
    assert text.startswith(
        "What pretraining brings runs from +5.0 (w32x2, seconds) to +8.0 (w64x2, seconds) points of accuracy"
    )
    assert (
        "with intervals above 0 at 4 of 4 sizes and matches; test loss falls by 0.050 to 0.080 nats, with intervals above 0 at 4"
        in text
    )
    assert "The control without pretraining spent finetuning's share of the budget alone, at the same rate" in text
    assert what_pretraining_brought_sentence([], words=WORDS["classification"]).startswith(
        "No size was finetuned without"
    )
