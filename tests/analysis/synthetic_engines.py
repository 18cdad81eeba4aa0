"""Engines of a synthetic study: int8 takes 0.6 of fp32's time, two threads 0.7 of one's; widths and depths cost what they hold.

Each engine puts out something of its own, worse than the weights as written, so that no output passes for another's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from pipeline.analysis.engines_table import engine_columns, engines_table

SETTINGS = ((1, 1), (2, 1), (1, 32), (2, 32))
FACTORS = {"float32": 1.0, "int16": 0.8, "int8": 0.6, "torch": 3.0}
COMPARED = (
    "ctranslate2-float32", "ctranslate2-int16", "ctranslate2-int8", "onnxruntime-float32", "onnxruntime-int8", "torch",
)  # fmt: skip

LOST = {engine: 0.2 + 0.4 * number for number, engine in enumerate(COMPARED)}
"""{engine: quality that it loses against the weights as written}."""

ENOUGH_FOR_P95 = 1
"""The largest batch that a p95 is told of, as of a time stage that has few large batches."""

Milliseconds = Callable[[dict[str, Any], str, int, int], float]
"""(row, engine, threads, batch) -> median of a batch."""

Change = Callable[[dict[str, Any]], dict[str, Any]]


def usual_ms(row: dict[str, Any], engine: str, threads: int, batch: int) -> float:
    """Return the default world's median: of the shape that is left."""
    work = (2 + row["d_model"] / 16) * (0.5 + row["num_layers"] / 4)
    return work * FACTORS[engine.rpartition("-")[2]] * (0.7 if threads == 2 else 1.0) * (8.0 if batch == 32 else 1.0)


def deployed_in(row: dict[str, Any]) -> str:
    """Return the engine of a row of the table."""
    return "ctranslate2-float32" if pd.isna(row["bits"]) else "ctranslate2-int8"


def engine_records(
    frame: pd.DataFrame,
    *,
    milliseconds: Milliseconds = usual_ms,
    settings: tuple[tuple[int, int], ...] = SETTINGS,
    change_record: Change = lambda record: record,
    everywhere: tuple[str, ...] = ("fp32",),
    compared: tuple[str, ...] = COMPARED,
    deployed: Callable[[dict[str, Any]], str] = deployed_in,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the stages engines and time write of a table: every ok row deployed, each configuration's first seed timed.

    The first seeds of the recipes `everywhere` run in every engine of `compared`. `change_record` may alter a record before it is timed;
    quality is 100 - 20 x test loss - `LOST`.
    """
    first = set(frame[frame["seed"] == frame.groupby(["match", "config_id"])["seed"].transform("min")]["run_id"])
    records, latencies = [], []
    for row in frame[frame["status"] == "ok"].to_dict("records"):
        run_id, own, timed = row["run_id"], deployed(row), row["run_id"] in first
        everything = timed and row["recipe"] in everywhere and pd.isna(row["teaching"])
        for engine in (own, *(name for name in compared if everything and name != own)):
            quality = 100 - 20 * row["test_loss"] - LOST[engine]
            narrow = pd.notna(row["bits"]) and row["bits"] < 8
            record = change_record(
                {
                    "run_id": run_id,
                    "engine": engine,
                    "deployed": engine == own,
                    "status": "ok",
                    "note": f"its {row['bits']:.0f}-bit weights run as int8" if narrow else None,
                    "same_hypotheses": 0.995 if timed and engine.endswith("float32") else None,
                    "size_bytes": int(row["params_total"] * (1 if engine.endswith("int8") else 4)),
                    "quality": quality,
                    "quality_low": quality - 1,
                    "quality_high": quality + 1,
                    "signature": "bleu",
                    "chrf": 50.0,
                }
            )
            records.append(record)
            for threads, batch in settings if timed and record["status"] == "ok" else ():
                ms = milliseconds(row, record["engine"], threads, batch)
                place = {"run_id": run_id, "engine": record["engine"], "threads": threads, "batch": batch}
                slow = 1.5 * ms if batch <= ENOUGH_FOR_P95 else None
                latencies.append(place | {"latency_ms_p50": ms, "latency_ms_p95": slow})
    return records, latencies


def with_engines(frame: pd.DataFrame, **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table with what its deployed engines measured, and the frame of engines.csv; `changes` of `engine_records`."""
    engines = engines_table(*engine_records(frame, **changes), expected=frame["run_id"])
    columns = engine_columns(engines)
    told = pd.DataFrame([columns.get(run_id, {}) for run_id in frame["run_id"]], index=frame.index)
    return frame.assign(**{name: told[name].astype(frame[name].dtype) for name in told}), engines
