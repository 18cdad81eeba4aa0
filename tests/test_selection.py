"""The selection of configurations, on rows whose right answer is known."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StudyError
from pipeline.expected import SCRATCH
from pipeline.run_id import parse_run_id
from pipeline.selection import (
    CLASSES,
    configurations,
    configurations_to_translate,
    heavy,
    heavy_first_study,
    light,
    light_first_study,
    limits_bytes,
    rows_frame,
    select,
)

PARAMS = {"w32x2": 100_000, "w64x2": 300_000, "w128x2": 1_000_000}
DENSE_LOSS = {"w32x2": 3.0, "w64x2": 2.5, "w128x2": 2.0}
RECIPES: dict[str, tuple[int | None, float | None, float]] = {
    "fp32": (None, None, 32.0),
    "q8": (8, None, 8.2),
    "q4": (4, None, 4.2),
    "p50": (None, 0.5, 17.0),
    "p90": (None, 0.9, 4.2),
    "p50q8": (8, 0.5, 5.2),
}
METHODS = {"fp32": "none", "q8": "quantize", "q4": "quantize", "p50": "prune", "p90": "prune"}
DAMAGE = {"fp32": 0.0, "q8": 0.001, "q4": 0.05, "p50": 0.1, "p90": 0.8, "p50q8": 0.11}

ENTRY = {
    "matches": ["seconds", "flops"],
    "limits": 8,
    "recipes": {name: {"curve": not name.startswith("p50q")} for name in RECIPES if name != "fp32"},
}


def row(size: str, recipe: str, seed: int, match: str = "seconds", **changes: Any) -> dict[str, Any]:
    bits, sparsity, weight_bits = RECIPES[recipe]
    params = PARAMS[size]
    made = parse_run_id(f"toy-{size}-s{seed}-{match}-{recipe}")
    made |= {
        "method": METHODS.get(recipe, "prune+quantize"),
        "bits": bits,
        "sparsity": sparsity,
        "params_total": params,
        "size_bytes": round(params * weight_bits / 8),
        "compression_ratio": 32 / weight_bits,
        "valid_loss": DENSE_LOSS[size] + DAMAGE[recipe] + 0.001 * seed,
        "test_loss": 9.0,
        "budget": {"seconds": "100 s", "flops": "1e12 flop"}[match],
        "total_seconds": 99.0,
        "total_flops": 0.99e12,
        "status": "ok",
    }
    return made | changes


def grid(**changes: Any) -> list[dict[str, Any]]:
    return [
        row(size, recipe, seed, match, **changes)
        for size in PARAMS
        for seed in range(3)
        for match in ("seconds", "flops")
        for recipe in RECIPES
    ]


def test_run_ids_say_what_they_are() -> None:
    assert parse_run_id("default-w64x2-s0-seconds-p50q4") == {
        "run_id": "default-w64x2-s0-seconds-p50q4",
        "study": "default",
        "size": "w64x2",
        "seed": 0,
        "match": "seconds",
        "recipe": "p50q4",
        "teaching": None,
        "config_id": "w64x2/p50q4",
    }
    student = parse_run_id("my_study-w96x3h2f128-sequence-s11-seconds-fp32")
    assert (student["config_id"], student["teaching"], student["seed"]) == ("w96x3h2f128-sequence/fp32", "sequence", 11)
    assert parse_run_id("default-w64x2-bothinit-s0-seconds-q4")["config_id"] == "w64x2-bothinit/q4"
    with pytest.raises(StudyError, match="not a run_id"):
        parse_run_id("default-w64x2-s0-seconds-early-fp32-x")


def test_classes_of_both_definitions() -> None:
    configs = configurations(rows_frame(grid())).query("match == 'seconds' and size == 'w64x2'").set_index("recipe")
    assert sorted(configs.index[light(configs)]) == ["fp32", "q8"]
    assert sorted(configs.index[heavy(configs)]) == ["p50q8", "p90", "q4"]
    assert sorted(configs.index[light_first_study(configs)]) == ["fp32", "p50"]
    assert sorted(configs.index[heavy_first_study(configs)]) == ["p50q8", "p90", "q4"]


def test_six_bits_below_five_times_is_not_heavy() -> None:
    configs = configurations(rows_frame([row("w32x2", "q4", seed, compression_ratio=4.9) for seed in range(3)]))
    assert not heavy(configs).any()
    assert heavy_first_study(configs).all()


def test_limits_are_geometric_from_smallest_to_best_int8() -> None:
    limits = limits_bytes(rows_frame(grid()), 8)
    assert (limits[0], limits[-1], len(limits)) == (102_500, 1_025_000, 8)
    assert np.allclose(np.diff(np.log(limits)), np.log(10) / 7, atol=1e-4)


def test_limits_stop_at_the_best_uncompressed_size() -> None:
    rows = [r | ({"valid_loss": 1.0} if r["size"] == "w64x2" and r["method"] == "none" else {}) for r in grid()]
    assert limits_bytes(rows_frame(rows), 8)[-1] == 307_500


def test_limits_when_the_smallest_size_is_best_or_alone() -> None:
    rows = [r | ({"valid_loss": 1.0} if r["size"] == "w32x2" else {}) for r in grid()]
    assert limits_bytes(rows_frame(rows), 8)[-1] == 307_500
    assert limits_bytes(rows_frame([r for r in rows if r["size"] == "w32x2"]), 8) == [102_500]


def test_limits_need_an_int8_file() -> None:
    with pytest.raises(StudyError, match="no size has both an fp32 and an int8 model"):
        limits_bytes(rows_frame([r for r in grid() if r["recipe"] != "q8"]), 8)


def test_where_every_fp32_model_is_lost_that_is_what_is_named() -> None:
    lost = [r | ({"status": "diverged"} if (r["match"], r["recipe"]) == ("seconds", "fp32") else {}) for r in grid()]
    with pytest.raises(StudyError, match=r"match seconds: .*; of 9 fp32 models 9 diverged, .*lower the learning rate"):
        limits_bytes(rows_frame(lost), 8)
    over = [r | ({"total_seconds": 110.0} if r["recipe"] == "fp32" else {}) for r in grid()]
    with pytest.raises(StudyError, match="every size's fp32 models overran their budget"):
        limits_bytes(rows_frame(over), 8)


def test_selection_takes_the_best_validation_loss_that_fits() -> None:
    configs = configurations(rows_frame(grid()))
    first, last = select(configs, "seconds", [102_500, 1_025_000])
    assert (first.light, first.heavy) == ("w32x2/q8", "w32x2/q4")
    assert first.by_size == {"w32x2": "w32x2/q8"}
    assert (last.light, last.heavy) == ("w128x2/q8", "w128x2/q4")
    assert last.by_size == {"w32x2": "w32x2/fp32", "w64x2": "w64x2/q8", "w128x2": "w128x2/q8"}


def test_selection_does_not_see_the_test_set() -> None:
    blind = select(configurations(rows_frame(grid())), "seconds", [300_000])
    rng = np.random.default_rng(0)
    rows = [r | {"test_loss": float(rng.uniform(1, 9)), "quality": float(rng.uniform(0, 50))} for r in grid()]
    assert select(configurations(rows_frame(rows)), "seconds", [300_000]) == blind


def test_a_side_that_does_not_fit_is_none() -> None:
    (choice,) = select(configurations(rows_frame(grid())), "seconds", [60_000])
    assert choice.light is None
    assert choice.heavy == "w32x2/q4"


def test_one_seed_too_large_keeps_a_configuration_out() -> None:
    rows = grid()
    for r in rows:
        if (r["size"], r["recipe"], r["seed"]) == ("w32x2", "q8", 2):
            r["size_bytes"] += 1
    (choice,) = select(configurations(rows_frame(rows)), "seconds", [102_500])
    assert choice.light is None


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ("seconds", {"total_seconds": 102.5}),
        ("flops", {"total_flops": 1.03e12}),
        ("seconds", {"status": "diverged", "valid_loss": None}),
        ("seconds", {"status": "missing", "valid_loss": None, "size_bytes": None}),
    ],
)
def test_overruns_and_lost_seeds_are_never_chosen(match: str, fault: dict[str, Any]) -> None:
    rows = [
        r | (fault if r["config_id"] == "w128x2/q4" and r["seed"] == 1 and r["match"] == match else {}) for r in grid()
    ]
    (choice,) = select(configurations(rows_frame(rows)), match, [1_025_000])
    assert choice.heavy == "w128x2/p50q8"


def test_a_recipe_that_only_some_seeds_were_given_is_never_chosen() -> None:
    lucky = [r | ({"valid_loss": 0.5} if r["config_id"] == "w128x2/q4" else {}) for r in grid()]
    rows = [r for r in lucky if r["config_id"] != "w128x2/q4" or r["seed"] == 0]
    configs = configurations(rows_frame(rows)).set_index(["match", "config_id"])
    assert not configs.loc[("seconds", "w128x2/q4"), "eligible"]
    assert configs.loc[("seconds", "w128x2/p90"), "eligible"]
    for given, chosen in ((lucky, "w128x2/q4"), (rows, "w128x2/p50q8")):
        (choice,) = select(configurations(rows_frame(given)), "seconds", [1_025_000])
        assert choice.heavy == chosen


def test_students_have_seeds_of_their_own() -> None:
    student = parse_run_id("toy-w32x2-word-s0-seconds-fp32") | {"method": "distill", "status": "ok", "valid_loss": 2.9}
    configs = configurations(rows_frame([*grid(), student])).set_index("config_id")
    assert configs.loc["w32x2-word/fp32", "eligible"]


def test_an_overrun_within_tolerance_or_of_the_other_resource_is_no_fault() -> None:
    frame = rows_frame(grid(total_seconds=101.9, total_flops=1.019e12))
    assert frame["within_budget"].all()
    frame = rows_frame([row("w32x2", "q4", 0, "flops", total_seconds=1000.0)])
    assert frame["within_budget"].all()


def test_students_are_never_in_a_class() -> None:
    student = parse_run_id("toy-w32x2-word-s0-seconds-fp32") | {
        "method": "distill", "status": "ok", "valid_loss": 0.1, "size_bytes": 1000, "compression_ratio": 50.0, "bits": 4, "params_total": 1,
    }  # fmt: skip
    configs = configurations(rows_frame([*grid(), student]))
    (choice,) = select(configs, "seconds", [1_025_000])
    assert "word" not in f"{choice}"


def test_models_without_pretraining_are_never_chosen_nor_set_a_limit() -> None:
    """Controls, however good: not light, not heavy, not the best of their size."""
    scratch = [
        row(size, "fp32", seed, match)
        | parse_run_id(f"toy-{size}-s{seed}-{match}-scratch")
        | {"valid_loss": 0.1, "bits": bits}
        for size in PARAMS
        for seed in range(3)
        for match in ("seconds", "flops")
        for bits in [None if size == "w32x2" else 4]
    ]
    frame = rows_frame([*grid(), *scratch])
    configs = configurations(frame)
    assert not configs.loc[configs["recipe"] == SCRATCH, "eligible"].any()
    assert limits_bytes(frame, 8) == limits_bytes(rows_frame(grid()), 8)
    for match in ("seconds", "flops"):
        for classes in CLASSES:
            for choice in select(configs, match, [50_000, 300_000, 10_000_000], classes=classes):
                assert SCRATCH not in f"{choice}"
    assert not [run_id for run_id in configurations_to_translate(frame, ENTRY) if run_id.endswith(SCRATCH)]


def test_translated_are_the_chosen_the_dense_the_students_and_one_curve_a_size() -> None:
    student = parse_run_id("toy-w32x2-word-s0-seconds-fp32") | {"method": "distill", "status": "ok", "valid_loss": 2.9}
    frame = rows_frame([*grid(), student])
    entry = ENTRY
    chosen = configurations_to_translate(frame, entry)
    assert len(chosen) == len(set(chosen))
    assert "toy-w32x2-word-s0-seconds-fp32" in chosen
    for size in PARAMS:
        for seed in range(3):
            for match in entry["matches"]:
                assert f"toy-{size}-s{seed}-{match}-fp32" in chosen
        for recipe in ("q8", "q4", "p50", "p90"):
            assert f"toy-{size}-s0-seconds-{recipe}" in chosen
    assert not any(name.startswith("toy-w128x2-s1-seconds-p90") for name in chosen)
    configs = configurations(frame)
    for match in entry["matches"]:
        for choice in select(configs, match, limits_bytes(frame, 8)):
            for name in {choice.heavy, choice.light, *choice.by_size.values()} - {None}:
                size, recipe = str(name).split("/")
                assert all(f"toy-{size}-s{seed}-{match}-{recipe}" in chosen for seed in range(3))


def test_a_model_without_weights_is_not_translated() -> None:
    rows = grid()
    rows[0] = {"run_id": rows[0]["run_id"], "method": "none", "status": "diverged"}
    frame = rows_frame(rows)
    assert frame.loc[0, "config_id"] == "w32x2/fp32"
    assert rows[0]["run_id"] not in configurations_to_translate(frame, ENTRY)


def test_selection_loads_no_torch() -> None:
    code = "import sys, pipeline.selection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
