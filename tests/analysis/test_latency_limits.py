"""The ladder of latency limits on worlds whose answer is known."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.latency_claim import latency_claim, runs_as_int8
from pipeline.analysis.latency_limits import LATENCY_TOLERANCE, deployed_configurations, limits_ms, timed_settings
from pipeline.analysis.markdown import verdict_markdown
from pipeline.analysis.metrics import metrics
from pipeline.analysis.schema import check_verdict
from pipeline.errors import StudyError
from tests.analysis.synthetic import loss_of, measured, report_entry
from tests.analysis.synthetic_engines import LOST, SETTINGS, usual_ms, with_engines
from tests.analysis.worlds import world

ALONE: dict[str, Any] = {"students": [], "plain_of_student": {}}
ONE: dict[str, Any] = {"settings": ((1, 1),)}


def by_bytes(row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
    """Return the time of an engine that were as fast as the file is small, which none is."""
    return row["size_bytes"] / 1e5


def slower(recipe: str, factor: float, row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
    return usual_ms(row, engine, threads, batch) * (factor if row["recipe"] == recipe else 1.0)


def destroyed(match: str, size: str, recipe: str) -> float:
    return loss_of(match, size, "fp32") + (0.0 if recipe in ("fp32", "q8") else 1.0)


def small(**changes: Any) -> dict[str, Any]:
    return report_entry(**({"sizes": ["w32x2", "w64x2", "w128x2"], "recipes": ["q8", "q4"]} | ALONE | changes))


@functools.cache
def usual() -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the default world, where four bits run as int8; no test may change it."""
    return world(entry=report_entry(**ALONE))


def winners(ladder: dict[str, Any], *, by_loss: bool = False) -> list[str]:
    return [(limit["by_loss"] if by_loss else limit)["winner"] for limit in ladder["limits"]]


def chosen(ladder: dict[str, Any], side: str) -> list[str | None]:
    return [limit[side] and limit[side]["config_id"] for limit in ladder["limits"]]


def test_every_match_and_setting_has_its_ladder_the_smallest_first() -> None:
    verdict, frame = usual()
    check_verdict(verdict)
    places = [(one["match"], one["threads"], one["batch"]) for one in verdict["latency"]]
    assert places == [(match, *setting) for match in ("seconds", "flops") for setting in SETTINGS]
    assert all(len(one["limits"]) == 8 and one["configurations"] == 50 for one in verdict["latency"])
    assert timed_settings(with_engines(frame)[1]) == list(SETTINGS)


def test_where_bits_buy_no_time_light_is_never_behind() -> None:
    verdict, frame = usual()
    for one in verdict["latency"]:
        assert set(winners(one)) | set(winners(one, by_loss=True)) <= {"light", "tie"}
        assert not any(limit["supports_train_large"] for limit in one["limits"])
        for limit in one["limits"]:
            assert limit["heavy"]["size_bytes"] < limit["light"]["size_bytes"]
            assert limit["heavy"]["engine"] == limit["light"]["engine"] == "ctranslate2-int8"
    assert metrics(frame, verdict)["latency_seconds_train_large_by_quality"] == 0


def test_were_latency_in_proportion_to_bytes_larger_models_would_win_as_they_do_by_bytes() -> None:
    verdict, frame = world(milliseconds=by_bytes, entry=report_entry(**ALONE), **ONE)
    check_verdict(verdict)
    ladder, of_bytes = verdict["latency"][0], verdict["matches"][0]
    assert chosen(ladder, "heavy")[:-1] == chosen(of_bytes, "heavy")[:-1]
    assert winners(ladder)[:-1] == winners(ladder, by_loss=True)[:-1] == ["heavy"] * 7
    assert all(limit["supports_train_large"] for limit in ladder["limits"][:-1])
    assert metrics(frame, verdict)["latency_seconds_train_large_by_quality"] >= 7
    assert "a larger, heavily compressed model (w64x2, w128x2) is ahead by BLEU at" in verdict["latency_claim"]


def test_light_wins_where_compression_destroys() -> None:
    verdict, _ = world(destroyed, entry=small())
    for one in verdict["latency"]:
        assert set(winners(one)) == set(winners(one, by_loss=True)) == {"light"}
    claim = verdict["latency_claim"]
    assert claim.startswith(
        "At limits of latency, in milliseconds a batch (1 thread, batch 1), at equal device seconds a"
    )
    assert "by BLEU at 0 of 8 limits and a lightly compressed one at 8 (by test loss at 0 and 8)" in claim
    assert "at the other 3 settings of threads and batch size at 0 of 8 and at 8 (by test loss at 0 and at 8);" in claim
    assert (
        "; at 1 thread, batch 1, of the 16 heavy choices 16 have weights of fewer than 8 bits and run as int8" in claim
    )
    assert " 32 limits" not in claim


def test_where_heavy_is_too_slow_nobody_wins() -> None:
    verdict, _ = world(entry=small(), milliseconds=functools.partial(slower, "q4", 100.0), **ONE)
    check_verdict(verdict)
    for one in verdict["latency"]:
        assert set(winners(one)) == {"infeasible"}
        assert set(chosen(one, "heavy")) == {None}
        assert one["limits"][0]["light"] is not None
        assert one["limits"][0]["difference"] is one["limits"][0]["by_loss"]["p_value"] is None
    assert ", with 8 where one side does not fit; at equal training FLOPs" in verdict["latency_claim"]
    assert "at the other" not in verdict["latency_claim"]  # one setting was timed
    assert "run as int8" not in verdict["latency_claim"]
    assert "nothing fits" in verdict_markdown(verdict)


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1 + 0.9 * LATENCY_TOLERANCE, True), (1.04, False)])
def test_a_limit_admits_what_differs_by_noise_alone(factor: float, fits: bool) -> None:
    verdict, _ = world(entry=small(sizes=["w64x2"]), milliseconds=functools.partial(slower, "q4", factor), **ONE)
    (limit,) = verdict["latency"][0]["limits"]
    assert limit["light"]["config_id"] == "w64x2/q8"
    assert (limit["heavy"] is not None) == fits


def test_limits_are_fixed_by_light_models_alone() -> None:
    worlds = [
        world(entry=small(), **ONE),
        world(entry=small(), milliseconds=functools.partial(slower, "q4", 0.1), **ONE),
        world(entry=small(recipes=["q8", "p90", "q3"]), **ONE),
        world(destroyed, entry=small(), **ONE),
    ]
    limits = [[limit["limit"] for limit in one["limits"]] for verdict, _ in worlds for one in verdict["latency"]]
    assert len(limits) == 8  # both matches of each world
    assert all(one == limits[0] for one in limits)


def test_limits_run_geometrically_from_the_fastest_to_the_best_and_admit_both() -> None:
    _, frame = usual()
    engines = with_engines(frame)[1]
    deployed = deployed_configurations(frame, engines, (1, 1))
    limits = limits_ms(frame, deployed, 8)
    first = deployed[(deployed["match"] == "seconds") & (deployed["recipe"] == "q8")].set_index("size")[
        "latency_ms_p50"
    ]
    assert limits[0] >= first["w32x2"] > limits[0] - 0.001
    assert limits[-1] >= first["w128x2"] > limits[-1] - 0.001  # the best uncompressed one under equal seconds
    assert np.diff(np.log(limits)) == pytest.approx(np.log(limits[-1] / limits[0]) / 7, rel=0.01)


def test_where_the_best_size_is_the_fastest_limits_run_to_the_next_slower_one() -> None:
    verdict, _ = world(
        lambda match, size, recipe: loss_of(match, size, recipe) + (-2.0 if size == "w32x2" else 0.0),
        entry=small(),
        **ONE,
    )
    first, *_, last = verdict["latency"][0]["limits"]
    by_size = last["by_size"]
    assert list(by_size) == ["w32x2", "w64x2"]
    assert last["limit"] == pytest.approx(by_size["w64x2"]["latency_ms_p50"], abs=0.001)
    assert first["limit"] == pytest.approx(by_size["w32x2"]["latency_ms_p50"], abs=0.001)


def test_what_an_engine_puts_out_decides_and_not_the_weights_as_written() -> None:
    def spoiled(record: dict[str, Any]) -> dict[str, Any]:
        return record | ({"quality": record["quality"] - 10} if record["run_id"].endswith("q4") else {})

    def better(match: str, size: str, recipe: str) -> float:
        return loss_of(match, size, "fp32") - (0.2 if recipe == "q4" else 0.0)

    verdict, _ = world(better, entry=small(), change_record=spoiled, **ONE)
    one = verdict["latency"][0]
    assert set(winners(one)) == {"light"}
    assert set(winners(one, by_loss=True)) == {"heavy"}
    heavy = one["limits"][0]["heavy"]
    assert heavy["engine_quality"] == pytest.approx(heavy["quality"] - 10 - LOST["ctranslate2-int8"])
    light = one["limits"][0]["light"]
    assert light["engine_quality"] == pytest.approx(light["quality"] - LOST[light["engine"]])
    assert (heavy["bits"], heavy["engine"]) == (4, "ctranslate2-int8")
    assert set(winners(verdict["matches"][0])) == {"heavy"}


def test_p_values_are_adjusted_within_one_ladder() -> None:
    def close(match: str, size: str, recipe: str) -> float:
        return loss_of(match, size, "fp32") + (0.012 if recipe == "q4" else 0.0)

    verdict, _ = world(close, entry=small(), noise=0.01, **ONE)
    for one in verdict["latency"]:
        raw = [limit["p_value_raw"] for limit in one["limits"]]
        smallest = int(np.argmin(raw))
        assert one["limits"][smallest]["p_value"] == pytest.approx(min(1.0, len(raw) * raw[smallest]))
        assert all(limit["p_value"] >= limit["p_value_raw"] for limit in one["limits"])


def test_only_what_was_deployed_with_every_seed_is_on_offer() -> None:
    def lost(record: dict[str, Any]) -> dict[str, Any]:
        if record["run_id"] == "toy-w64x2-s1-seconds-q4":
            return record | {"status": "refused", "quality": None, "note": "it cannot"}
        if record["run_id"] == "toy-w32x2-s0-seconds-q4":
            return record | {"status": "differs", "same_hypotheses": 0.5}
        return record

    verdict, _ = world(entry=small(), change_record=lost, **ONE)
    names = {name for one in verdict["latency"] if one["match"] == "seconds" for name in chosen(one, "heavy")}
    assert names == {None, "w128x2/q4"}
    assert verdict["latency"][0]["configurations"] == 3 * 3 - 2


def test_a_budget_overrun_never_enters() -> None:
    def overrun(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"total_seconds": 306.1} if row["size"] == "w64x2" and row["seed"] == 2 else {})

    verdict, _ = world(entry=small(), change=overrun, **ONE)
    seconds, flops = verdict["latency"]
    assert "w64x2" not in str(seconds["limits"])
    assert "w64x2" in str(flops["limits"])


def test_one_seed_gives_no_interval_and_no_winner() -> None:
    verdict, _ = world(destroyed, entry=small(seeds=1), **ONE)
    check_verdict(verdict)
    assert set(winners(verdict["latency"][0])) == {"tie"}


def test_a_study_that_timed_nothing_has_no_ladder_and_no_claim() -> None:
    verdict, frame = world(entry=small(), settings=())
    check_verdict(verdict)
    assert verdict["latency"] == []
    assert verdict["latency_claim"] is latency_claim([], [], quality_name="BLEU") is None
    assert not [name for name in metrics(frame, verdict) if name.startswith("latency")]
    assert "latency" not in verdict_markdown(verdict)


def test_without_an_int8_model_there_are_no_limits() -> None:
    frame, engines = with_engines(measured(small()), **ONE)
    without = engines[~engines["run_id"].str.endswith("q8")]
    deployed = deployed_configurations(frame, without, (1, 1))
    assert len(deployed)
    assert limits_ms(frame, deployed, 8) == []


def test_a_setting_where_no_int8_model_was_timed_has_no_ladder_and_the_claim_says_why() -> None:
    def untimed(engines: pd.DataFrame) -> pd.DataFrame:
        first = (engines["threads"] == 1) & (engines["batch"] == 1)
        return engines[~(first & engines["run_id"].str.endswith("q8"))]

    verdict, frame = world(destroyed, entry=small(), change_table=untimed)
    check_verdict(verdict)
    places = [(one["match"], one["threads"], one["batch"]) for one in verdict["latency"]]
    assert places == [(match, *setting) for match in ("seconds", "flops") for setting in SETTINGS[1:]]
    claim = verdict["latency_claim"]
    assert "(2 threads, batch 1), at equal device seconds" in claim
    assert "at the other 2 settings" in claim
    why = "no ladder at 1 thread, batch 1: no eligible int8 model of a size was timed there, see engines.csv."
    assert claim.endswith(f"; {why}")
    assert (metrics(frame, verdict)["latency_threads"], metrics(frame, verdict)["latency_batch"]) == (2, 1)


@pytest.mark.parametrize("status", ["differs", "refused"])
def test_where_every_int8_model_differs_or_is_refused_the_verdict_stands_without_ladders(status: str) -> None:
    def lost(record: dict[str, Any]) -> dict[str, Any]:
        return record | ({"status": status} if record["run_id"].endswith("q8") else {})

    verdict, frame = world(entry=small(), change_record=lost)
    check_verdict(verdict)
    assert (verdict["latency"], len(verdict["matches"][0]["limits"])) == ([], 8)
    settings = "1 thread, batch 1 and 2 threads, batch 1 and 1 thread, batch 32 and 2 threads, batch 32"
    why = f"Latency limits: no ladder at {settings}: no eligible int8 model of a size was timed there, see engines.csv."
    assert verdict["latency_claim"] == why
    assert why in verdict_markdown(verdict)
    assert not [name for name in metrics(frame, verdict) if name.startswith("latency")]


def test_other_settings_are_a_range_and_metrics_are_of_the_first() -> None:
    def pruned_is_fast_alone(row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
        proportional = threads == 2 and batch == 1
        return by_bytes(row, engine, threads, batch) if proportional else usual_ms(row, engine, threads, batch)

    verdict, frame = world(milliseconds=pruned_is_fast_alone, entry=report_entry(**ALONE))
    by_setting = [one for one in verdict["latency"] if one["match"] == "seconds"]
    won = [[limit["supports_train_large"] for limit in one["limits"]].count(True) for one in by_setting]
    assert won[0] == won[2] == won[3] == 0 < won[1]
    claim = verdict["latency_claim"]
    assert "is ahead by BLEU at 0 of 8 limits" in claim
    assert f"at the other 3 settings of threads and batch size at 0 to {won[1]} of 8 and at " in claim
    numbers = metrics(frame, verdict)
    assert (numbers["latency_seconds_train_large_by_quality"], numbers["latency_threads"]) == (0, 1)
    told = [numbers[f"latency_seconds_{who}_by_quality"] for who in ("heavy", "light", "tie", "infeasible")]
    assert sum(told) == 8


def test_noise_of_what_engines_put_out_widens_the_intervals_of_latency_ladders_alone() -> None:
    quiet, loud = (world(destroyed, entry=small(), engine_noise=noise, **ONE)[0] for noise in (0.0005, 5.0))
    assert loud["matches"] == quiet["matches"]
    for before, after in zip(quiet["latency"], loud["latency"], strict=True):
        assert set(winners(before)) == {"light"}
        assert set(winners(after)) == {"tie"}
        assert [limit["by_loss"] for limit in after["limits"]] == [limit["by_loss"] for limit in before["limits"]]


def test_a_malformed_ladder_is_refused() -> None:
    verdict = copy.deepcopy(usual()[0])
    verdict["latency"][0]["limits"][0]["unit"] = "bytes"
    with pytest.raises(StudyError, match=r"latency\[0\].limits\[0\].unit"):
        check_verdict(verdict)


def test_the_markdown_has_the_first_ladder_and_the_claim() -> None:
    verdict, _ = usual()
    text = verdict_markdown(verdict)
    assert verdict["latency_claim"] in text
    assert "in the engine of each model (1 thread, batch 1)" in text
    assert " ms | w" in text


def test_only_what_an_int8_engine_runs_is_said_to_run_as_int8() -> None:
    sides = [
        {"bits": 4, "engine": "ctranslate2-int8"},
        {"bits": 4, "engine": "torch"},
        {"bits": 8, "engine": "ctranslate2-int8"},
    ]
    assert [runs_as_int8(side) for side in sides] == [True, False, False]
    assert not runs_as_int8({"bits": None, "engine": "ctranslate2-float32"})
