"""Students against the best other model of at most their bytes, in worlds whose answer is known."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.analysis.differences import Difference
from pipeline.analysis.rivals import students_claim, winner_of
from pipeline.analysis.schema import check_verdict
from pipeline.analysis.table import assemble
from pipeline.analysis.verdict import build_verdict
from pipeline.expected import expected_models
from pipeline.run_id import parse_run_id
from pipeline.selection import configurations_to_translate
from tests.analysis.synthetic import curves_of, loss_of, report_entry, row_of
from tests.analysis.synthetic_engines import with_engines

STUDENTS = {"q4": {"students": True}, "q8": {"students": True}}
SMALL: dict[str, Any] = {"sizes": ["w32x2", "w64x2", "w128x2"], "recipes": ["q8", "q4", "q3"], "limited": STUDENTS}
Change = Callable[[dict[str, Any]], dict[str, Any]]


def world(
    gain: float = 0.0, *, change: Change = lambda row: row, translated: bool = True, **settings: Any
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return verdict and table of a world where every student's loss is `gain` below that of a plain model of its size."""
    entry = report_entry(**(SMALL | settings))
    rng = np.random.default_rng(0)
    rows, translations = [], {}
    for model in expected_models(entry):
        identity = parse_run_id(model.run_id)
        loss = loss_of(identity["match"], identity["size"], identity["recipe"]) + rng.normal(0, 0.004)
        row = change(row_of(model.run_id, loss - (gain if identity["teaching"] else 0.0)))
        rows.append(row)
        if translated or not identity["teaching"]:
            scores = {"quality": 100 - 20 * row["test_loss"], "chrf": 50.0}
            translations[model.run_id] = scores | {"signature": "bleu", "chrf_signature": "chrf"}
    frame = assemble(entry, rows, translations, {})
    losses = frame.set_index("run_id")["test_loss"]

    def loss_draws(run_id: str) -> np.ndarray:
        return losses[run_id] + np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, 4e-4, size=100)

    def quality_draws(run_id: str) -> np.ndarray:
        return 100 - 20 * loss_draws(run_id)

    def engine_draws(run_id: str) -> np.ndarray:
        raise AssertionError(f"{run_id}: no student stands at a latency limit")

    frame, engines = with_engines(frame, settings=())
    verdict = build_verdict(
        frame,
        engines,
        entry,
        curve=curves_of(entry),
        quality_draws=quality_draws,
        engine_draws=engine_draws,
        loss_draws=loss_draws,
        components=100,
    )
    check_verdict(verdict)
    return verdict, frame


@functools.cache
def usual() -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the world where students gain nothing, which no test may change."""
    return world()


def line_of(verdict: dict[str, Any], student: str) -> dict[str, Any]:
    [line] = [line for line in verdict["students"] if line["student"]["config_id"] == student]
    return dict(line)


def test_every_kind_of_student_meets_a_rival_that_is_no_student_and_no_larger() -> None:
    verdict, frame = usual()
    kinds = {
        (size, how, recipe)
        for size in ("w32x2", "w64x2")
        for how in ("word", "sequence")
        for recipe in ("fp32", "q8", "q4")
    }
    assert {line["student"]["config_id"] for line in verdict["students"]} == {f"{s}-{h}/{r}" for s, h, r in kinds}
    plain = frame[frame["teaching"].isna() & (frame["match"] == "seconds")]
    means = plain.groupby("config_id")[["valid_loss", "size_bytes"]].mean()
    for line in verdict["students"]:
        fitting = means[means["size_bytes"] <= line["student"]["size_bytes"]]
        assert line["rival"]["config_id"] == fitting["valid_loss"].idxmin()


def test_the_rival_is_chosen_on_validation_and_beaten_on_test() -> None:
    def flattered(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"valid_loss": 0.1} if row["config_id"] == "w32x2/q3" else {})

    line = line_of(world(change=flattered)[0], "w64x2-word/q4")
    assert line["rival"]["config_id"] == "w32x2/q3"
    expected = line["rival"]["test_loss"] - line["student"]["test_loss"]
    assert line["loss"]["difference"] == pytest.approx(expected, abs=0.02)
    assert (line["winner"], line["rival"]["valid_loss"]) == ("student", pytest.approx(0.1))


@pytest.mark.parametrize(("gain", "winner"), [(1.5, "student"), (-0.5, "rival")])
def test_a_known_winner_is_found_and_held_to_what_the_teacher_cost(gain: float, winner: str) -> None:
    verdict, _ = world(gain)
    for line in verdict["students"]:
        assert line["winner"] == winner
        loss, quality = line["loss"], line["quality"]
        assert loss["low"] <= loss["difference"] <= loss["high"]
        assert loss["difference"] * gain > 0 < quality["difference"] * gain
        assert loss["seeds"] == 2
        assert line["holds"] == (["excluded"] if gain > 0 else ["excluded", "amortised", "included"])


def test_a_student_like_its_plain_twin_ties_where_the_twin_is_its_rival() -> None:
    verdict, _ = world(sizes=["w32x2", "w64x2"], recipes=["q8", "q4"])
    line = line_of(verdict, "w32x2-word/q4")
    assert line["rival"]["config_id"] == "w32x2/q4"
    assert (line["winner"], line["holds"]) == ("tie", [])


def test_a_header_of_other_length_does_not_save_a_student_from_its_twin() -> None:
    def longer(row: dict[str, Any]) -> dict[str, Any]:
        extra = {"w32x2/q4": 8, "w64x2/q4": 80}.get(row["config_id"], 0)
        return row | {"size_bytes": row["size_bytes"] + extra}

    verdict, _ = world(sizes=["w32x2", "w64x2"], recipes=["q8", "q4"], change=longer)
    assert line_of(verdict, "w32x2-word/q4")["rival"]["config_id"] == "w32x2/q4"
    assert line_of(verdict, "w64x2-word/q4")["rival"]["config_id"] != "w64x2/q4"


def test_who_wins_needs_an_interval_without_zero_and_the_least_difference() -> None:
    def result(value: float, low: float | None, high: float | None) -> Difference:
        return Difference(value=value, low=low, high=high, p_value=None, seeds=2)

    assert winner_of(result(0.2, 0.1, 0.3), least=0.1) == "student"
    assert winner_of(result(-0.2, -0.3, -0.1), least=0.1) == "rival"
    assert winner_of(result(0.2, 0.1, 0.3), least=0.21) == "tie"
    assert winner_of(result(0.2, -0.1, 0.5), least=0.1) == "tie"
    assert winner_of(result(0.2, None, None), least=0.1) == "tie"
    assert winner_of(None, least=0.1) == "infeasible"


def test_totals_count_the_teachers_training_three_ways() -> None:
    verdict, _ = usual()
    line = line_of(verdict, "w32x2-word/q4")
    excluded, amortised, included = (line["totals"][name] for name in ("excluded", "amortised", "included"))
    assert (excluded["seconds"], included["seconds"]) == (pytest.approx(299), pytest.approx(598))
    assert amortised["seconds"] == pytest.approx(299 + 299 / 8)  # the study has 2 sizes x 2 teachings x 2 seeds
    assert included["seconds_by_budget"] == pytest.approx(598 / 300)
    rival_speed = {"w32x2": 17e9, "w64x2": 32e9, "w128x2": 67e9}[line["rival"]["config_id"].split("/")[0]]
    assert included["flops_by_rival"] == pytest.approx((299 * 17e9 + 299 * 67e9) / (299 * rival_speed))


def test_a_win_stands_under_the_accountings_that_stay_within_the_budget() -> None:
    def cheap(row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"teacher_training_seconds": 10.0} if "teacher_training_seconds" in row else {})

    verdict, _ = world(1.5, change=cheap)  # 10 s / 8 students are nothing, 10 s are 3 %
    assert all(line["holds"] == ["excluded", "amortised"] for line in verdict["students"])
    assert "12 of the 12 wins stand when it is shared by the study's students (1.00 times" in verdict["students_claim"]
    assert "and 0 when it is counted whole (1.03 times the budget)" in verdict["students_claim"]


def test_where_nothing_fits_nobody_wins() -> None:
    limited = {"q4": {"students": True, "sizes": ["w64x2"]}}
    verdict, _ = world(sizes=["w32x2", "w64x2"], recipes=["q8", "q4"], limited=limited)
    line = line_of(verdict, "w32x2-word/q4")
    assert (line["rival"], line["loss"], line["quality"], line["winner"], line["holds"]) == (
        None,
        None,
        None,
        "infeasible",
        [],
    )
    assert line["totals"]["included"]["flops_by_rival"] is None


def test_a_student_that_lost_a_seed_or_overran_is_not_compared() -> None:
    def lost(row: dict[str, Any]) -> dict[str, Any]:
        if row["run_id"] == "toy-w32x2-word-s1-seconds-q4":
            return row | {"status": "diverged"}
        return row | ({"total_seconds": 310.0} if row["run_id"] == "toy-w64x2-word-s0-seconds-q8" else {})

    compared = {line["student"]["config_id"] for line in world(change=lost)[0]["students"]}
    assert len(compared) == 10
    assert not compared & {"w32x2-word/q4", "w64x2-word/q8"}


def test_a_student_of_one_seed_borrows_the_variance_of_plain_sizes() -> None:
    only = ["toy-w32x2-both-s0", "toy-w64x2-bothinit-s0"]
    plain = {key: key.replace("-bothinit", "").replace("-both", "") for key in only}
    verdict, _ = world(1.5, students=only, plain_of_student=plain)
    assert len(verdict["students"]) == 6
    for line in verdict["students"]:
        assert (line["loss"]["seeds"], line["winner"]) == (1, "student")
        assert line["loss"]["low"] is not None


def test_an_untranslated_student_is_compared_by_loss_alone() -> None:
    verdict, _ = world(1.5, translated=False)
    assert all(line["quality"] is line["student"]["quality"] is None for line in verdict["students"])
    assert all(line["winner"] == "student" for line in verdict["students"])


def test_rivals_are_translated() -> None:
    verdict, frame = usual()
    wanted = set(configurations_to_translate(frame, report_entry(**SMALL)))
    for line in verdict["students"]:
        assert wanted >= {*line["rival"]["run_ids"], *line["student"]["run_ids"]}


def test_the_claim_counts_and_says_what_a_loss_means() -> None:
    verdict, _ = world(-0.5)
    claim = verdict["students_claim"]
    numbers = [int(number) for number in re.findall(r"\d+", claim)]
    assert numbers[:4] == [12, 0, 12, 0]
    assert "behind under every accounting" in claim
    assert "wins stand" not in claim
    larger = sum(line["rival"]["params_total"] > line["student"]["params_total"] for line in verdict["students"])
    assert f"; {larger} of the rivals are larger models, compressed" in claim
    assert larger > 0
    assert claim.count(".") - len(re.findall(r"\d\.\d", claim)) == 1
    assert students_claim([]) is None
    assert world(students=[], plain_of_student={})[0]["students_claim"] is None
