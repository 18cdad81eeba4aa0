"""The engines' long table, and what of it goes into a model's row."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.analysis.engines_table import COLUMNS, engine_columns, engines_table
from pipeline.analysis.table import Row
from pipeline.errors import StudyError

DENSE, ROUNDED, OTHER = (f"toy-w64x2-s0-seconds-{recipe}" for recipe in ("fp32", "q8a8", "q4"))


def record(run_id: str, engine: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "engine": engine,
        "deployed": True,
        "status": "ok",
        "note": None,
        "same_hypotheses": 0.995,
        "size_bytes": 1000,
        "quality": 30.0,
        "quality_low": 29.0,
        "quality_high": 31.0,
        "signature": "x",
        "chrf": 50.0,
    } | changes


def latencies(run_id: str, engine: str) -> list[dict[str, Any]]:
    return [
        {
            "run_id": run_id,
            "engine": engine,
            "threads": threads,
            "batch": batch,
            "latency_ms_p50": 2.0 * threads * batch,
        }
        | {"latency_ms_p95": 3.0 * threads * batch}
        for threads in (1, 2)
        for batch in (1, 32)
    ]


RECORDS = [
    record(DENSE, "onnxruntime-int8", deployed=False, quality=28.0),
    record(DENSE, "ctranslate2-float32"),
    record(
        ROUNDED, "ctranslate2-int8", deployed=False, status="refused", note="no place", same_hypotheses=None,
        size_bytes=None, quality=None, quality_low=None, quality_high=None, signature=None, chrf=None,
    ),
    record(ROUNDED, "torch", note="no place"),
    record(OTHER, "ctranslate2-int8", status="differs", note="only 90 %", same_hypotheses=0.9),
]  # fmt: skip
LATENCIES = [
    *latencies(DENSE, "ctranslate2-float32"), *latencies(DENSE, "onnxruntime-int8"), *latencies(ROUNDED, "torch"),
]  # fmt: skip
NAMES: dict[str, Any] = {
    **dict.fromkeys(("study", "task", "run_id", "method", "recipe", "quality_name", "status"), "x"),
    **dict.fromkeys(("config_id", "size", "match"), "x"),
    **dict.fromkeys(("d_model", "num_layers", "num_heads", "ffn_dim", "seed"), 1),
}
EVERYTHING = [DENSE, ROUNDED, OTHER]


def test_a_line_for_every_engine_threads_and_batch_and_one_where_nothing_was_timed() -> None:
    table = engines_table(RECORDS, LATENCIES, expected=EVERYTHING)
    assert tuple(table.columns) == COLUMNS
    assert list(table["engine"]) == [
        *["onnxruntime-int8"] * 4, *["ctranslate2-float32"] * 4, "ctranslate2-int8", *["torch"] * 4, "ctranslate2-int8",
    ]  # fmt: skip
    assert set(table["config_id"]) == {"w64x2/fp32", "w64x2/q8a8", "w64x2/q4"}
    times = ["threads", "batch", "latency_ms_p50", "latency_ms_p95"]
    assert table.loc[table["status"] != "ok", times].isna().all().all()
    assert list(table.loc[table["engine"] == "torch", "latency_ms_p50"]) == [2.0, 64.0, 4.0, 128.0]
    refused = table[table["status"] == "refused"].iloc[0]
    assert refused[["quality", "engine_bytes", "same_hypotheses"]].isna().all()
    assert refused["note"] == "no place"
    assert (str(table["engine_bytes"].dtype), str(table["deployed"].dtype)) == ("Int64", "boolean")


def test_a_row_has_its_deployed_engine_at_the_first_setting() -> None:
    columns = engine_columns(engines_table(RECORDS, LATENCIES, expected=EVERYTHING))
    assert columns[DENSE] == {
        "latency_engine": "ctranslate2-float32",
        "latency_threads": 1,
        "latency_batch": 1,
        "latency_ms_p50": 2.0,
        "latency_ms_p95": 3.0,
        "engine_quality": 30.0,
        "engine_same_hypotheses": 0.995,
        "engine_note": None,
    }
    assert (columns[ROUNDED]["latency_engine"], columns[ROUNDED]["engine_note"]) == ("torch", "no place")
    assert (columns[OTHER]["engine_quality"], columns[OTHER]["latency_ms_p50"]) == (30.0, None)
    assert columns[OTHER]["engine_same_hypotheses"] == 0.9


def test_a_p95_that_was_not_told_is_null_beside_its_p50() -> None:
    told = [line | {"latency_ms_p95": None} for line in LATENCIES if line["run_id"] == DENSE]
    table = engines_table(RECORDS, told, expected=EVERYTHING)
    timed = table[table["latency_ms_p50"].notna()]
    assert (len(timed), timed["latency_ms_p95"].notna().sum()) == (8, 0)
    assert str(table["latency_ms_p95"].dtype) == "float64"
    columns = engine_columns(table)[DENSE]
    assert (columns["latency_ms_p50"], columns["latency_ms_p95"]) == (2.0, None)
    assert Row(**NAMES, **columns).latency_ms_p95 is None


def test_models_that_the_study_no_longer_has_are_left_out() -> None:
    assert set(engines_table(RECORDS, LATENCIES, expected=[DENSE])["run_id"]) == {DENSE}
    nothing = engines_table([], [], expected=[DENSE])
    assert (tuple(nothing.columns), engine_columns(nothing)) == (COLUMNS, {})


def test_strange_records_are_refused() -> None:
    with pytest.raises(StudyError, match="unknown status 'fine'"):
        engines_table([record(DENSE, "torch", status="fine")], [], expected=EVERYTHING)
    with pytest.raises(StudyError, match="q8a8: torch was timed but has no record"):
        engines_table(RECORDS[:2], LATENCIES, expected=EVERYTHING)
