"""The engines' table: one line for every model, engine, number of threads and batch size; and what of it a row says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pandas as pd

from pipeline.errors import StudyError
from pipeline.run_id import parse_run_id

TIMES = ("threads", "batch", "latency_ms_p50", "latency_ms_p95")
STATUSES = ("ok", "refused", "differs")

_DTYPES = {
    "run_id": "object", "config_id": "object", "match": "object", "seed": "Int64", "size": "object", "recipe": "object",
    "engine": "object", "deployed": "boolean", "status": "object", "note": "object", "same_hypotheses": "float64",
    "engine_bytes": "Int64", "quality": "float64", "quality_low": "float64", "quality_high": "float64", "chrf": "float64",
    "threads": "Int64", "batch": "Int64", "latency_ms_p50": "float64", "latency_ms_p95": "float64",
}  # fmt: skip
COLUMNS = tuple(_DTYPES)


def engines_table(
    records: Iterable[dict[str, Any]], latencies: Iterable[dict[str, Any]], *, expected: Iterable[str]
) -> pd.DataFrame:
    """Return the long table of `COLUMNS`: the engines stage's `records` with the time stage's `latencies`.

    An engine that was not timed on a model has one line with nulls in `TIMES`; a p95 alone is null where too few batches
    were timed for one. `expected` are the run_ids that the study has; what is recorded of others is left out. StudyError on
    an unknown status, and on a latency without a record.
    """
    wanted = set(expected)
    times: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for latency in latencies:
        times[latency["run_id"], latency["engine"]].append({name: latency[name] for name in TIMES})
    lines = []
    for record in records:
        run_id, engine = record["run_id"], record["engine"]
        if record["status"] not in STATUSES:
            raise StudyError(f"{run_id}: unknown status {record['status']!r} of {engine}; run the engines stage again")
        measured = times.pop((run_id, engine), [dict.fromkeys(TIMES)])
        if run_id in wanted:
            facts = parse_run_id(run_id) | record | {"engine_bytes": record["size_bytes"]}
            lines += [{name: (facts | one)[name] for name in COLUMNS} for one in measured]
    if left := sorted(times):
        raise StudyError(
            f"{left[0][0]}: {left[0][1]} was timed but has no record of its outputs; run the time stage again"
        )
    return pd.DataFrame(lines, columns=list(COLUMNS)).astype(_DTYPES)


def engine_columns(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return {run_id: columns of `pipeline.analysis.table.Row`} of the deployed engine, timed at the first setting.

    What no engine took in the end, or was not timed, has its latencies null; p95 may be null beside a p50.
    """
    columns: dict[str, dict[str, Any]] = {}
    for line in table[table["deployed"]].drop_duplicates("run_id").astype(object).to_dict("records"):
        told = {name: None if pd.isna(value) else value for name, value in line.items()}
        columns[str(told["run_id"])] = {
            "latency_engine": told["engine"],
            "latency_threads": told["threads"],
            "latency_batch": told["batch"],
            "latency_ms_p50": told["latency_ms_p50"],
            "latency_ms_p95": told["latency_ms_p95"],
            "engine_quality": told["quality"],
            "engine_same_hypotheses": told["same_hypotheses"],
            "engine_note": told["note"],
        }
    return columns
