"""The long table of engines: one line a (model, engine, threads, batch)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from pipeline.run_id import parse_run_id

COLUMNS = (
    "run_id",
    "config_id",
    "match",
    "seed",
    "size",
    "recipe",
    "engine",
    "deployed",
    "status",
    "note",
    "same_hypotheses",
    "engine_bytes",
    "quality",
    "quality_low",
    "quality_high",
    "chrf",
    "threads",
    "batch",
    "latency_ms_p50",
    "latency_ms_p95",
)


def engines_table(records: Iterable[dict[str, Any]], latencies: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the columns of `COLUMNS`; the last four are null of what was not timed."""
    timed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for latency in latencies:
        timed.setdefault((latency["run_id"], latency["engine"]), []).append(latency)
    lines = []
    for record in records:
        whole = parse_run_id(record["run_id"]) | record | {"engine_bytes": record["size_bytes"]}
        lines += [whole | one for one in timed.get((record["run_id"], record["engine"]), [{}])]
    return pd.DataFrame(lines).reindex(columns=list(COLUMNS)).astype({"threads": "Int64", "batch": "Int64"})
