"""Which model is run in which engine, on rows whose right answer is known."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipeline.deployed import Planned, deployed_engine, note_of, plan_engines, timed
from pipeline.run_id import parse_run_id
from pipeline.selection import rows_frame

SIZES = {"w32x2": (32, 2, 1, 128), "w64x2": (64, 2, 2, 256)}
BITS: dict[str, int | None] = {
    "fp32": None,
    "q8": 8,
    "q4": 4,
    "q3": 3,
    "p50": None,
    "q8a8": 8,
    "width50": None,
    "ffn50": None,
}
BITS |= {"width50kd": None}
LOSS = {
    "fp32": 2.0,
    "q8": 2.001,
    "q4": 2.1,
    "q3": 2.5,
    "p50": 2.2,
    "q8a8": 2.01,
    "width50": 2.6,
    "width50kd": 2.55,
    "ffn50": 2.4,
}
KINDS = {
    "width50": "width+ffn+finetune",
    "width50kd": "width+ffn+distill",
    "ffn50": "ffn+finetune",
    "q8a8": "uniform+activations",
}
ENTRY: dict[str, Any] = {
    "recipes": {name: {"kind": KINDS.get(name, "other")} for name in LOSS if name != "fp32"},
    "compared": ["ctranslate2-int16", "onnxruntime-int8"],
    "compared_sizes": None,
}


def shape_left(size: str, recipe: str) -> tuple[int, int, int, int]:
    width, layers, heads, ffn = SIZES[size]
    if recipe.startswith("width50"):
        return (width // 2, layers, heads // 2, ffn // 2)
    return (width, layers, heads, ffn // 2) if recipe == "ffn50" else (width, layers, heads, ffn)


def row(run_id: str, **changes: Any) -> dict[str, Any]:
    named = parse_run_id(run_id)
    size, recipe = named["size"], named["recipe"]
    bits = BITS[recipe]
    pruned = recipe in ("p50", "width50", "width50kd", "ffn50")
    method = "none" if recipe == "fp32" else "prune" if pruned else "quantize"
    return {
        "run_id": run_id,
        "method": "distill" if named["teaching"] else method,
        **dict(zip(("d_model", "num_layers", "num_heads", "ffn_dim"), shape_left(size, recipe), strict=True)),
        "bits": bits,
        "activation_bits": 8 if recipe == "q8a8" else None,
        "sparsity": 0.5 if pruned else None,
        "params_total": 1000 * SIZES[size][0],
        "size_bytes": 4000 * SIZES[size][0] // (32 // (bits or 32)),
        "compression_ratio": 32 / (bits or 32) * (4 if recipe.startswith("width") else 1),
        "valid_loss": LOSS[recipe] - SIZES[size][0] / 100,
        "budget": {"seconds": "100 s", "flops": "1e12 flop"}[named["match"]],
        "total_seconds": 99.0,
        "total_flops": 0.99e12,
        "status": "ok",
    } | changes


def study() -> list[dict[str, Any]]:
    """Two sizes of two seeds, both matches, one student of one size; width50 and ffn50 of the larger size and one seed."""
    rows = [
        row(f"toy-{size}-s{seed}-{match}-{recipe}")
        for size in SIZES
        for seed in range(2)
        for match in ("seconds", "flops")
        for recipe in ("fp32", "q8", "q4", "q3", "p50")
    ]
    rows += [row(f"toy-w64x2-s0-seconds-{recipe}") for recipe in ("width50", "width50kd", "ffn50", "q8a8")]
    rows += [row("toy-w32x2-s0-seconds-q8a8")]
    return rows + [row(f"toy-w32x2-word-s0-seconds-{recipe}") for recipe in ("fp32", "q4", "q8")]


def plan(rows: list[dict[str, Any]], **changes: Any) -> list[Planned]:
    return plan_engines(rows_frame(rows), ENTRY | changes)


def runs(planned: list[Planned], *, engine: str | None = None) -> set[str]:
    return {one.run_id for one in planned if engine in (None, one.engine)}


@pytest.mark.parametrize(
    ("bits", "inputs", "engine"),
    [
        (None, None, "ctranslate2-float32"),
        (float("nan"), float("nan"), "ctranslate2-float32"),
        (8, None, "ctranslate2-int8"),
        (3.0, None, "ctranslate2-int8"),
        (8, 8, "torch"),
        (None, 8, "torch"),
    ],
)
def test_the_deployed_engine_is_that_of_the_weights(bits: float | None, inputs: float | None, engine: str) -> None:
    assert deployed_engine(bits=bits, activation_bits=inputs) == engine


def test_classifiers_are_deployed_in_onnx_runtime() -> None:
    engines = [
        deployed_engine(bits=bits, activation_bits=inputs, task="classification")
        for bits, inputs in ((None, None), (float("nan"), float("nan")), (8, None), (3.0, None), (8, 8))
    ]
    assert engines == ["onnxruntime-float32", "onnxruntime-float32", "onnxruntime-int8", "onnxruntime-int8", "torch"]
    rows = [
        row(f"mlm-{size}-s0-seconds-{recipe}") for size in SIZES for recipe in ("fp32", "q8", "q4", "q3", "p50", "q8a8")
    ]
    rows += [row(f"mlm-w32x2-s0-seconds-{recipe}") for recipe in ("width50", "ffn50")]
    planned = plan(rows, task="classification", compared=["onnxruntime-int8", "torch"])
    deployed = {(one.run_id.rpartition("-")[2], one.engine, one.note) for one in planned if one.deployed}
    assert deployed == {
        ("fp32", "onnxruntime-float32", None),
        ("width50", "onnxruntime-float32", None),
        ("ffn50", "onnxruntime-float32", None),
        ("q8", "onnxruntime-int8", None),
        ("q4", "onnxruntime-int8", "its 4-bit weights run as int8"),
        ("q8a8", "onnxruntime-int8", None),  # which refuses, as everywhere
    }
    assert runs(planned, engine="torch") == {f"mlm-{size}-s0-seconds-fp32" for size in SIZES} | {
        "mlm-w32x2-s0-seconds-ffn50"
    }


def test_bits_that_no_engine_computes_in_are_told() -> None:
    assert note_of("ctranslate2-int8", bits=4.0) == "its 4-bit weights run as int8"
    assert note_of("ctranslate2-int16", bits=8) == "its 8-bit weights run as int16"
    assert note_of("torch", bits=8) == "its 8-bit weights run as float32"
    assert [note_of("ctranslate2-int8", bits=8), note_of("ctranslate2-float32", bits=None)] == [None, None]
    assert note_of("ctranslate2-float32", bits=float("nan")) is None


def test_all_seeds_of_dense_and_of_the_best_of_each_side_and_shape_are_deployed() -> None:
    planned = [one for one in plan(study()) if one.deployed]
    for size in SIZES:
        for seed in range(2):
            for match in ("seconds", "flops"):
                here = f"toy-{size}-s{seed}-{match}"
                assert {f"{here}-fp32"} <= runs(planned, engine="ctranslate2-float32")
                assert {f"{here}-q8", f"{here}-q4"} <= runs(planned, engine="ctranslate2-int8")
                assert not {f"{here}-q3", f"{here}-p50"} & runs(planned)  # as fast as q4 or fp32, and worse
    assert {one.first for one in planned if "-s0-" in one.run_id} == {True}
    assert {one.first for one in planned if "-s1-" in one.run_id} == {False}


def test_every_kind_that_leaves_another_shape_a_student_and_rounded_inputs_are_there_once() -> None:
    planned = [one for one in plan(study()) if one.deployed]
    assert {one for one in runs(planned) if "50" in one} == {
        f"toy-w64x2-s0-seconds-{recipe}" for recipe in ("width50", "width50kd", "ffn50")
    }
    assert {one for one in runs(planned) if "word" in one} == {
        f"toy-w32x2-word-s0-seconds-{recipe}" for recipe in ("fp32", "q8")
    }
    assert {one for one in runs(planned) if "a8" in one} == {"toy-w64x2-s0-seconds-q8a8"}


def test_compared_engines_take_the_first_seed_of_a_few_models() -> None:
    planned = plan(study())
    compared = {f"toy-{size}-s0-seconds-fp32" for size in SIZES}
    compared |= {"toy-w64x2-s0-seconds-ffn50", "toy-w32x2-word-s0-seconds-fp32"}
    assert runs(planned, engine="onnxruntime-int8") == runs(planned, engine="ctranslate2-int16") == compared
    assert not [one for one in planned if one.deployed and one.engine == "onnxruntime-int8"]
    fewer = plan(study(), compared_sizes=["w32x2"])
    assert runs(planned, engine="onnxruntime-int8") - runs(fewer, engine="onnxruntime-int8") == {
        "toy-w64x2-s0-seconds-fp32"
    }
    again = [
        one for one in plan(study(), compared=["ctranslate2-float32"]) if one.run_id == "toy-w64x2-s0-seconds-fp32"
    ]
    assert [(one.engine, one.deployed) for one in again] == [("ctranslate2-float32", True)]


def test_the_order_is_that_of_the_rows_and_every_pair_is_there_once() -> None:
    rows = study()
    planned = plan(rows)
    order = [one["run_id"] for one in rows]
    assert [order.index(one.run_id) for one in planned] == sorted(order.index(one.run_id) for one in planned)
    assert len({(one.run_id, one.engine) for one in planned}) == len(planned)


def test_nothing_of_the_test_set_or_of_a_clock_decides() -> None:
    told = {"test_loss": 1.0, "quality": 50.0, "latency_ms_p50": 0.1}
    rows = [one | (told if one["run_id"].endswith("q3") else {}) for one in study()]
    assert plan(rows) == plan(study())


def test_what_was_lost_is_not_run_and_what_is_not_eligible_is_not_chosen() -> None:
    rows = study()
    for one in rows:
        if one["run_id"] == "toy-w64x2-s0-seconds-fp32":
            one |= {"status": "diverged", "valid_loss": None}
        if one["run_id"] == "toy-w64x2-s1-seconds-q4":
            one["total_seconds"] = 200.0
    planned = plan(rows)
    assert "toy-w64x2-s0-seconds-fp32" not in runs(planned)
    (left,) = [one for one in planned if one.run_id == "toy-w64x2-s1-seconds-fp32" and one.deployed]
    assert left.first
    assert not runs(planned) & {f"toy-w64x2-s{seed}-seconds-q4" for seed in range(2)}
    assert "toy-w64x2-s1-seconds-q3" in runs(planned)


def test_rows_without_shapes_and_inputs_of_lost_models_do_no_harm() -> None:
    rows = [*study(), {"run_id": "toy-w64x2-s1-seconds-width50", "method": "prune", "status": "failed"}]
    assert "toy-w64x2-s1-seconds-width50" not in runs(plan(rows))


def test_timed_are_the_right_ones_of_each_first_seed() -> None:
    def record(run_id: str, engine: str, status: str) -> dict[str, Any]:
        return {"run_id": run_id, "engine": engine, "status": status}

    records = [
        record("toy-w64x2-s0-seconds-fp32", "ctranslate2-float32", "ok"),
        record("toy-w64x2-s0-seconds-fp32", "onnxruntime-int8", "differs"),
        record("toy-w64x2-s1-seconds-fp32", "ctranslate2-float32", "ok"),
        record("toy-w64x2-s0-seconds-q8", "ctranslate2-int8", "differs"),
        record("toy-w64x2-s1-seconds-q8", "ctranslate2-int8", "ok"),
        record("toy-w64x2-word-s0-seconds-fp32", "ctranslate2-float32", "refused"),
        record("toy-w64x2-word-s0-seconds-fp32", "torch", "ok"),
    ]
    assert list(timed(records)) == [records[0], records[6]]


def test_planning_loads_no_torch() -> None:
    code = "import sys, pipeline.deployed, pipeline.study; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
