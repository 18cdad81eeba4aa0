"""Engines of a synthetic study: int8 takes 0.6 of fp32's time, two threads 0.7 of one's; widths and depths cost what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

SETTINGS = ((1, 1), (2, 1), (1, 32), (2, 32))
COLUMNS = (
    "run_id", "config_id", "match", "seed", "size", "recipe", "engine", "deployed", "status", "note", "same_hypotheses",
    "engine_bytes", "quality", "quality_low", "quality_high", "chrf", "threads", "batch", "latency_ms_p50", "latency_ms_p95",
)  # fmt: skip
FACTORS = {"float32": 1.0, "int16": 0.8, "int8": 0.6, "torch": 3.0}
COMPARED = (
    "ctranslate2-float32", "ctranslate2-int16", "ctranslate2-int8", "onnxruntime-float32", "onnxruntime-int8", "torch",
)  # fmt: skip

Milliseconds = Callable[[dict[str, Any], str, int, int], float]
"""(row, engine, threads, batch) -> median of a batch."""


def usual_ms(row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
    """Return the default world's median: of the shape that is left."""
    work = (2 + row["d_model"] / 16) * (0.5 + row["num_layers"] / 4)
    return work * FACTORS[engine.rpartition("-")[2]] * (0.7 if threads == 2 else 1.0) * (8.0 if batch == 32 else 1.0)


def deployed_in(row: dict[str, Any]) -> str:
    """Return the engine of a row of the table."""
    return "ctranslate2-float32" if pd.isna(row["bits"]) else "ctranslate2-int8"


def engines_frame(
    frame: pd.DataFrame,
    *,
    milliseconds: Milliseconds = usual_ms,
    settings: tuple[tuple[int, int], ...] = SETTINGS,
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record,
) -> pd.DataFrame:
    """Return the long frame of engines.csv for a table: every ok row deployed, each configuration's first seed timed.

    The first seeds' dense models run in every engine. `change` may alter a record before it is timed; quality is
    100 - 20 x test loss, 0.1 less in int8.
    """
    first = set(frame[frame["seed"] == frame.groupby(["match", "config_id"])["seed"].transform("min")]["run_id"])
    lines = []
    for row in frame[frame["status"] == "ok"].to_dict("records"):
        deployed, timed = deployed_in(row), row["run_id"] in first
        everything = timed and row["recipe"] == "fp32" and row["teaching"] is None
        for engine in (deployed, *(name for name in COMPARED if everything and name != deployed)):
            quality = 100 - 20 * row["test_loss"] - (0.1 if engine.endswith("int8") else 0.0)
            narrow = pd.notna(row["bits"]) and row["bits"] < 8
            record = {name: row[name] for name in ("run_id", "config_id", "match", "seed", "size", "recipe")} | {
                "engine": engine,
                "deployed": engine == deployed,
                "status": "ok",
                "note": f"its {row['bits']:.0f}-bit weights run as int8" if narrow else None,
                "same_hypotheses": 0.995 if timed and engine.endswith("float32") else None,
                "engine_bytes": row["params_total"] * (1 if engine.endswith("int8") else 4),
                "quality": quality,
                "quality_low": quality - 1,
                "quality_high": quality + 1,
                "chrf": 50.0,
            }
            record = change(record)
            places = settings if timed and record["status"] == "ok" else ((None, None),)
            for threads, batch in places:
                ms = None if threads is None else milliseconds(row, engine, threads, batch)
                timing = {"threads": threads, "batch": batch, "latency_ms_p50": ms}
                lines.append(record | timing | {"latency_ms_p95": None if ms is None else 1.5 * ms})
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype({"threads": "Int64", "batch": "Int64"})


def with_engines(frame: pd.DataFrame, engines: pd.DataFrame) -> pd.DataFrame:
    """Return the table with what the deployed engines measured, in its columns."""
    deployed = engines[engines["deployed"]].drop_duplicates("run_id").set_index("run_id")
    told = {
        "engine_quality": "quality",
        "engine_same_hypotheses": "same_hypotheses",
        "engine_note": "note",
        "latency_engine": "engine",
        "latency_threads": "threads",
        "latency_batch": "batch",
        "latency_ms_p50": "latency_ms_p50",
        "latency_ms_p95": "latency_ms_p95",
    }
    changed = {column: frame["run_id"].map(deployed[name]).astype(frame[column].dtype) for column, name in told.items()}
    return frame.assign(**changed)
