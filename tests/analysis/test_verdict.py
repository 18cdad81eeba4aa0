"""The verdict on worlds whose answer is known."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pandas as pd
import pytest

from pipeline.analysis.claim import claim_sentence, matches_disagree
from pipeline.analysis.markdown import verdict_markdown
from pipeline.analysis.metrics import metrics
from pipeline.analysis.schema import check_verdict
from pipeline.errors import StudyError
from tests.analysis.synthetic import loss_of, report_entry
from tests.analysis.worlds import world


@functools.cache
def usual() -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the default world, which no test may change."""
    return world()


def flat(match: str, size: str, recipe: str) -> float:
    return 2.0


def winners(verdict: dict[str, Any], match: int = 0, *, by_loss: bool = False) -> list[str]:
    return [(limit["by_loss"] if by_loss else limit)["winner"] for limit in verdict["matches"][match]["limits"]]


def test_a_known_winner_is_found_by_both_measures() -> None:
    verdict, _ = usual()
    check_verdict(verdict)
    limits = verdict["matches"][0]["limits"]
    assert len(limits) == 8
    for limit in limits[:-1]:
        assert (limit["winner"], limit["by_loss"]["winner"]) == ("heavy", "heavy")
        assert limit["supports_train_large"]
        assert limit["low"] > 0 < limit["by_loss"]["low"]
        assert limit["low"] <= limit["difference"] <= limit["high"]
        assert limit["p_value_raw"] <= limit["p_value"] < 0.05
    assert limits[-1]["winner"] == "tie"


def test_positive_differences_favour_heavy_in_both_units() -> None:
    verdict, _ = usual()
    for match in verdict["matches"]:
        for limit in match["limits"]:
            assert limit["difference"] == pytest.approx(limit["heavy"]["quality"] - limit["light"]["quality"])
            assert limit["by_loss"]["difference"] == pytest.approx(
                limit["light"]["test_loss"] - limit["heavy"]["test_loss"]
            )


def test_equal_models_tie() -> None:
    verdict, _ = world(flat)
    assert set(winners(verdict)) | set(winners(verdict, 1)) == {"tie"}
    assert not any(limit["supports_train_large"] for match in verdict["matches"] for limit in match["limits"])


def test_a_sure_but_small_difference_is_a_tie() -> None:
    def hair(match: str, size: str, recipe: str) -> float:
        return 2.0 - (0.01 if recipe in ("q4", "p50q4", "q3", "p90") else 0.0)

    verdict, _ = world(hair, noise=1e-6)
    assert set(winners(verdict)) == {"tie"}
    assert max(limit["p_value"] for limit in verdict["matches"][0]["limits"]) < 0.05
    assert all(0 < limit["by_loss"]["difference"] < 0.02 for limit in verdict["matches"][0]["limits"])


def test_light_wins_where_compression_destroys() -> None:
    verdict, _ = world(lambda match, size, recipe: 2.0 + (0.0 if recipe in ("fp32", "q8") else 3.0))
    assert set(winners(verdict)) == set(winners(verdict, by_loss=True)) == {"light"}
    assert "ahead by BLEU at 0 of 8 byte limits and a lightly compressed one at 8" in verdict["claim"]


def test_a_heavy_winner_of_no_more_parameters_does_not_support_training_large() -> None:
    entry = report_entry(sizes=["w64x2"], students=[], plain_of_student={})
    verdict, _ = world(lambda match, size, recipe: 2.0 - (0.5 if recipe == "q4" else 0.0), entry=entry)
    assert winners(verdict) == ["heavy"]
    assert not verdict["matches"][0]["limits"][0]["supports_train_large"]


def test_where_one_side_does_not_fit_nobody_wins() -> None:
    verdict, _ = world(entry=report_entry(recipes=["q8"]))
    check_verdict(verdict)
    assert set(winners(verdict)) == {"infeasible"}
    limit = verdict["matches"][0]["limits"][0]
    assert limit["heavy"] is None
    assert limit["light"] is not None
    assert limit["difference"] is limit["p_value"] is limit["by_loss"]["low"] is None
    assert "infeasible" in verdict_markdown(verdict)


def test_a_budget_overrun_never_enters() -> None:
    def overrun(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"total_seconds": 306.1} if row["size"] == "w128x2" and row["seed"] == 2 else {})

    verdict, frame = world(change=overrun)
    seconds, flops = verdict["matches"]
    assert "w128x2" not in str(seconds["limits"])
    assert "w128x2" in str(flops["limits"])
    assert metrics(frame, verdict)["rows_over_budget"] == 10


def test_one_seed_gives_no_interval_and_no_winner() -> None:
    verdict, _ = world(entry=report_entry(seeds=1, students=[], plain_of_student={}))
    check_verdict(verdict)
    assert set(winners(verdict)) == {"tie"}
    assert all(limit["low"] is limit["p_value"] is None for limit in verdict["matches"][0]["limits"])
    assert "one seed: no interval" in verdict_markdown(verdict)


def test_a_size_of_one_seed_borrows_the_variance_of_the_others() -> None:
    runs = [key for key in report_entry()["runs"] if not key.startswith("toy-w32x2") or key.endswith("s0")]
    verdict, _ = world(entry=report_entry(runs=runs, students=[], plain_of_student={}))
    first = verdict["matches"][0]["limits"][0]
    assert (first["seeds"], first["light"]["config_id"], first["winner"]) == (1, "w32x2/q8", "heavy")
    assert first["low"] is not None


def test_a_chosen_model_without_quality_is_an_error_that_names_it() -> None:
    chosen = usual()[0]["matches"][0]["limits"][0]["heavy"]["run_ids"][1]
    with pytest.raises(StudyError, match=r"quality of its configuration is needed and lacks a seed"):
        world(without_quality=chosen)


def test_each_size_shows_its_best_fitting_configuration() -> None:
    limits = usual()[0]["matches"][0]["limits"]
    assert list(limits[0]["by_size"]) == ["w32x2", "w64x2"]
    assert all(side["size_bytes"] <= limit["limit"] for limit in limits for side in limit["by_size"].values())


def test_the_first_study_has_its_own_classes() -> None:
    for limit in usual()[0]["matches"][0]["limits_first_study"]:
        assert limit["light"] is None or limit["light"]["compression_ratio"] <= 2
        assert limit["heavy"] is None or limit["heavy"]["compression_ratio"] >= 4


def test_disagreeing_matches_say_so_first_with_speeds() -> None:
    def flops_destroy(match: str, size: str, recipe: str) -> float:
        return loss_of(match, size, recipe) if match == "seconds" else 2.0 + (recipe not in ("fp32", "q8")) * 3.0

    verdict, frame = world(flops_destroy)
    assert verdict["claim"].startswith("The two matches disagree: at equal device seconds")
    assert "w32x2 17, w64x2 32, w128x2 67, w128x4 60, w256x2 124" in verdict["claim"]
    assert metrics(frame, verdict)["matches_disagree"] == 1


def test_the_claim_counts() -> None:
    matches = copy.deepcopy(usual()[0]["matches"])
    for match in matches:
        for limit in match["limits"]:
            limit |= {"winner": "tie", "supports_train_large": False}
            limit["by_loss"] |= {"winner": "tie", "supports_train_large": False}
    matches[0]["limits"][3] |= {"winner": "heavy", "supports_train_large": True}
    claim = claim_sentence(matches, quality_name="BLEU", throughput={"w32x2": 17.4})
    assert "is ahead by BLEU at 1 of 8 byte limits and a lightly compressed one at 0 (by test loss at 0 and 0)" in claim
    assert matches_disagree(matches)
    assert claim.endswith("GFLOP/s: w32x2 17.")


def test_opposite_winners_at_one_limit_are_a_disagreement() -> None:
    matches = copy.deepcopy(usual()[0]["matches"])
    for match in matches:
        for limit in match["limits"]:
            for outcome in (limit, limit["by_loss"]):
                outcome |= {"winner": "heavy", "supports_train_large": True}
    assert not matches_disagree(matches)
    matches[1]["limits"][0]["by_loss"] |= {"winner": "light", "supports_train_large": False}
    assert matches_disagree(matches)


def test_a_malformed_verdict_is_refused() -> None:
    verdict = copy.deepcopy(usual()[0])
    verdict["matches"][0]["limits"][0]["winner"] = "draw"
    with pytest.raises(StudyError, match=r"matches\[0\].limits\[0\].winner"):
        check_verdict(verdict)
    verdict["matches"][0]["limits"][0]["winner"] = "tie"
    del verdict["matches"][0]["limits"][0]["by_loss"]
    with pytest.raises(StudyError, match="by_loss"):
        check_verdict(verdict)
