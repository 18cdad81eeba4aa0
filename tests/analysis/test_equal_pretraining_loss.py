"""Finetuned from an equal pretraining loss: points, shared ranges, and what seeds explain, on synthetic truths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.equal_pretraining_loss import (
    at_equal_loss,
    equal_pretraining_loss,
    equal_pretraining_loss_sentences,
    finetuned_branches,
    seeds_explain,
    shared_ranges,
)
from pipeline.analysis.table import assemble
from pipeline.analysis.task_words import WORDS
from pipeline.expected import expected_models
from pipeline.run_id import parse_run_id
from tests.analysis.synthetic_classification import classification_entry, classifier_row, pretraining_loss

ENTRY = classification_entry(sizes=["w64x2", "w128x2", "w128x4"], recipes=("q8", "early", "early4"))
FINETUNED = {
    (key, f"{match}{suffix}"): {
        "pretrain_valid_loss": pretraining_loss(match, parse_run_id(f"{key}-seconds-fp32")["size"], early=bool(suffix)),
        "steps": 100 if match == "seconds" else 70,
    }
    for key in ENTRY["runs"]
    for match in ("seconds", "flops")
    for suffix in ("", "-early")
}


def table(gain: float = 0.0) -> pd.DataFrame:
    """Return a table whose accuracy is 100 - 5 x pretraining loss, and `gain` more for each width of 64 beyond 64."""
    rows = []
    for run_id in (model.run_id for model in expected_models(ENTRY)):
        named = parse_run_id(run_id)
        early = named["recipe"].startswith("early")
        loss = pretraining_loss(named["match"], named["size"], early=early)
        row = classifier_row(run_id, 0.1 * loss)
        wider = gain * (row["d_model"] / 64 - 1)
        rows.append(row | {"quality": 100 - 5 * loss + wider + 0.1 * (named["seed"] - 1)})
    return assemble(ENTRY, rows, {}, {})


def test_whole_and_early_branches_are_points_and_nothing_else_is() -> None:
    rows = finetuned_branches(table(), ENTRY["recipes"], FINETUNED)
    assert set(rows["recipe"]) == {"fp32", "early"}
    assert set(rows.loc[rows["recipe"] == "early", "branch"]) == {"seconds-early", "flops-early"}
    one = rows[(rows["run_id"] == "toy-w64x2-s1-flops-early")].iloc[0]
    assert one["pretrain_valid_loss"] == pytest.approx(4.5 + 0.15)


def test_what_diverged_or_has_no_pretraining_loss_is_no_point() -> None:
    frame = table()
    frame.loc[frame["run_id"] == "toy-w64x2-s0-seconds-fp32", ["status", "test_loss"]] = ["diverged", None]
    told = {place: one for place, one in FINETUNED.items() if place != ("toy-w64x2-s1", "seconds")}
    points = equal_pretraining_loss(frame, ENTRY["recipes"], told)["points"]
    seeds = {(line["size"], line["branch"]): line["seeds"] for line in points}
    assert seeds["w64x2", "seconds"] == 1
    assert seeds["w128x2", "seconds"] == 3
    (alone,) = (line for line in points if (line["size"], line["branch"]) == ("w64x2", "seconds"))
    assert alone["quality_sd"] is None


def test_where_quality_follows_the_loss_alone_sizes_are_equal_at_equal_loss() -> None:
    found = equal_pretraining_loss(table(), ENTRY["recipes"], FINETUNED)
    assert len(found["points"]) == 3 * 4
    assert {(line["branch"], line["finetune_steps"]) for line in found["points"]} == {
        ("seconds", 100), ("seconds-early", 100), ("flops", 70), ("flops-early", 70),
    }  # fmt: skip
    (common,) = found["common"]
    assert [line["size"] for line in common["sizes"]] == ["w64x2", "w128x2", "w128x4"]
    assert (common["low"], common["high"]) == (4.5, 4.7)
    assert [line["quality"] for line in common["sizes"]] == pytest.approx([100 - 5 * 4.6] * 3)
    assert common["quality_spread"] == pytest.approx(0, abs=1e-9)


def test_a_gain_of_size_is_recovered_and_is_more_than_seeds_explain() -> None:
    found = equal_pretraining_loss(table(gain=2.0), ENTRY["recipes"], FINETUNED)
    (common,) = found["common"]
    assert common["quality_spread"] == pytest.approx(2.0)
    # sd 0.1 of each point, 3 seeds, Tukey's factor of 3 means and 24 degrees of freedom: 3.53
    assert common["quality_seeds"] == pytest.approx(3.532 * 0.1 / 3**0.5, rel=1e-3)
    (sentence,) = equal_pretraining_loss_sentences(found, words=WORDS["classification"])
    assert (
        "At a pretraining loss of 4.600, which the branches of 3 sizes span, accuracy after finetuning is" in sentence
    )
    assert "w64x2 77.0, w128x2 79.0, w128x4 79.0: 2.0 points apart, where seeds alone explain up to 0.2" in sentence
    assert [line["between"] for line in common["sizes"][1:]] == [pytest.approx([4.55, 4.7]), pytest.approx([4.55, 4.8])]
    assert sentence.endswith("to 0.250 nats apart, after 70 to 100 steps of finetuning.")


def test_a_size_with_a_single_seed_is_not_compared_and_does_not_widen_what_seeds_explain() -> None:
    spans = {"a": (5.0, 6.0), "b": (4.0, 5.5), "c": (5.0, 5.5)}
    three = points(spans)
    three.loc[three["size"] != "c", ["seeds", "quality_sd", "test_loss_sd"]] = [3, 0.1, 0.01]
    (common,) = at_equal_loss(three)
    assert [line["size"] for line in common["sizes"]] == ["a", "b"]
    (without,) = at_equal_loss(three[three["size"] != "c"])
    assert common == without
    assert common["quality_seeds"] is not None
    lines = three.to_dict("records")
    sentences = equal_pretraining_loss_sentences({"points": lines, "common": [common]}, words=WORDS["classification"])
    assert sentences[-1] == "Branches of a single seed are not compared (c)."
    assert "which are 1.000 to 1.500 nats apart." in sentences[0]


def points(spans: dict[str, tuple[float, float]]) -> pd.DataFrame:
    lines = [
        {"size": size, "pretrain_valid_loss": loss, "quality": 70.0, "test_loss": 0.5, "seeds": 1}
        for size, span in spans.items()
        for loss in span
    ]
    return pd.DataFrame(lines).assign(quality_sd=np.nan, test_loss_sd=np.nan, finetune_steps=np.nan)


def test_ranges_hold_all_that_overlap_and_no_two_that_do_not() -> None:
    chain = points({"a": (5.0, 6.0), "b": (4.5, 5.2), "c": (4.0, 4.8), "d": (1.0, 2.0)})
    assert shared_ranges(chain) == [(4.5, 4.8, ["b", "c"]), (5.0, 5.2, ["a", "b"])]
    nested = points({"a": (4.0, 6.0), "b": (4.5, 5.0), "c": (4.2, 5.5)})
    assert shared_ranges(nested) == [(4.5, 5.0, ["a", "b", "c"])]
    assert shared_ranges(points({"a": (5.0, 6.0), "b": (4.0, 5.0)})) == []


def test_without_an_overlap_nothing_is_claimed() -> None:
    apart = points({"a": (5.0, 6.0), "b": (4.0, 4.5)})
    assert at_equal_loss(apart) == []
    (sentence,) = equal_pretraining_loss_sentences({"points": [], "common": []}, words=WORDS["classification"])
    assert "is not known here" in sentence


def test_one_seed_explains_nothing() -> None:
    together = points({"a": (5.0, 6.0), "b": (4.0, 5.5)})
    assert seeds_explain(together, "quality", sizes=2) is None
    (common,) = at_equal_loss(together)
    assert common["quality_seeds"] is None
    (sentence,) = equal_pretraining_loss_sentences({"points": [], "common": [common]}, words=WORDS["classification"])
    assert "with one seed nothing says how much of that is luck" in sentence
