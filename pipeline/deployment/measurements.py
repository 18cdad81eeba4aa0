"""What a study measured of one model, read from its results: the table's row and the lines of engines.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """`row` is the model's line of runs.parquet; `engine` one record of the engine that the export is for, or None.

    `timings` are dicts of threads, batch, latency_ms_p50 and latency_ms_p95 (None of too few calls). `missing` says why there is no row.
    """

    row: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    timings: tuple[dict[str, Any], ...] = ()
    missing: str | None = None


_ENGINE = (
    "engine",
    "status",
    "note",
    "same_hypotheses",
    "engine_bytes",
    "quality",
    "quality_low",
    "quality_high",
    "chrf",
)
_TIMING = ("threads", "batch", "latency_ms_p50", "latency_ms_p95")


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what was not measured, in Python's own types."""
    import pandas as pd

    return {
        name: value.item() if hasattr(value, "item") else value for name, value in record.items() if not pd.isna(value)
    }


def read_measurements(
    results: Path | None, run_id: str | None, *, engine: str, size_bytes: int, unmeasured: str | None = None
) -> Measurements:
    """Return what `results` (results/<study>) has of a model in an engine; `size_bytes` is the size of its weights file.

    A row of another size is of another model of the same name, and is not taken. `unmeasured` says why there is none.
    """
    if run_id is None or results is None:
        return Measurements(missing=unmeasured or "the model is no row of a study's table")
    path = results / "runs.parquet"
    if not path.is_file():
        return Measurements(missing=f"there is no {path}")
    import pandas as pd

    from pipeline.analysis.table import read_table

    table = read_table(path)
    rows = [_plain(record) for record in table[table["run_id"] == run_id].to_dict("records")]
    if not rows:
        return Measurements(missing=f"{path} has no row {run_id}")
    row = rows[0]
    if row.get("size_bytes") != size_bytes:
        return Measurements(
            missing=f"the row of this name in {path} is of a file of {row.get('size_bytes')} bytes, this one has {size_bytes}"
        )
    lines: list[dict[str, Any]] = []
    if (results / "engines.csv").is_file():
        records = pd.read_csv(results / "engines.csv")
        chosen = records[(records["run_id"] == run_id) & (records["engine"] == engine)]
        lines = [_plain(record) for record in chosen.to_dict("records")]
    timings = [{name: line.get(name) for name in _TIMING} for line in lines if "latency_ms_p50" in line]
    if not timings and row.get("latency_engine") == engine:
        timings = [{name: row.get(f"latency_{name}" if name in ("threads", "batch") else name) for name in _TIMING}]
    return Measurements(
        row=row,
        engine={name: lines[0][name] for name in _ENGINE if name in lines[0]} if lines else None,
        timings=tuple(timings),
    )
