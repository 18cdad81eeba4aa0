"""Distilled students beside plain runs of the same size and total budget."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.run_id import parse_run_id

METHODS = ("plain", "word", "sequence")


def students_table(frame: pd.DataFrame, entry: dict[str, Any]) -> pd.DataFrame:
    """Return one line a (size, method): means over the seeds that have students; an empty frame without students.

    `total_seconds` holds the student's updates, the teacher's passes and its decoding, not the teacher's own training.
    `amortised_seconds` adds that training divided by the number of students of the study, `included_seconds` all of it;
    the same for FLOPs. Differences are to plain, positive where the student is better.
    """
    table = frame.set_index("run_id")
    taught = {key: f"{key}-seconds-fp32" for key in entry["students"]}
    plain = {key: f"{entry['plain_of_student'][key]}-seconds-fp32" for key in taught}
    lines = []
    for key, run_id in taught.items():
        for method, name in ((parse_run_id(run_id)["teaching"], run_id), ("plain", plain[key])):
            row = table.loc[name]
            if row["status"] == "ok":
                lines.append({"method": method, "run_id": name, **{c: row[c] for c in _COLUMNS}})
    if not lines:
        return pd.DataFrame()
    rows = pd.DataFrame(lines).drop_duplicates("run_id")
    for unit in ("seconds", "flops"):
        training = rows[f"teacher_training_{unit}"].fillna(0.0)
        rows[f"amortised_{unit}"] = rows[f"total_{unit}"] + training / len(taught)
        rows[f"included_{unit}"] = rows[f"total_{unit}"] + training
    numbers = [name for name in rows.columns if name not in ("method", "run_id", "size", "seed")]
    grouped = rows.groupby(["size", "method"], sort=False)
    result = grouped[numbers].mean(numeric_only=False)
    result["quality"] = grouped["quality"].apply(lambda values: values.mean(skipna=False))
    result["seeds"] = grouped.size()
    result["within_budget"] = grouped["within_budget"].apply(lambda values: bool(values.fillna(True).all()))
    base = (
        result.xs("plain", level="method")
        if "plain" in result.index.get_level_values("method")
        else result.iloc[:0].droplevel(1)
    )
    sizes = result.index.get_level_values("size")
    result["loss_gain"] = base["test_loss"].reindex(sizes).to_numpy() - result["test_loss"]
    result["quality_gain"] = result["quality"] - base["quality"].reindex(sizes).to_numpy()
    result = result.reset_index()
    result["method"] = pd.Categorical(result["method"], categories=list(METHODS), ordered=True)
    result = result.sort_values(["params_total", "method"], kind="stable").reset_index(drop=True)
    return result.astype({"method": str})


_COLUMNS = (
    "size",
    "seed",
    "params_total",
    "valid_loss",
    "test_loss",
    "quality",
    "total_seconds",
    "total_flops",
    "teacher_seconds",
    "decode_seconds",
    "teacher_training_seconds",
    "teacher_training_flops",
    "within_budget",
)
