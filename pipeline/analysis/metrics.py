"""metrics.json: flat numbers for `dvc metrics show` and `dvc metrics diff`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from pipeline.analysis.claim import counts, matches_disagree
from pipeline.analysis.damage import is_dense
from pipeline.selection import configurations

OUTCOMES = ("heavy", "light", "tie", "infeasible", "train_large")


def metrics(frame: pd.DataFrame, verdict: dict[str, Any]) -> dict[str, float | int]:
    """Return {name: number}: rows by status, limits won, the best dense loss and quality, GFLOP/s.

    Latency limits are counted over all settings of threads and batch.
    """
    result: dict[str, float | int] = {"matches_disagree": int(matches_disagree(verdict["matches"]))}
    for status, number in frame["status"].value_counts().items():
        result[f"rows_{status}"] = int(number)
    result["rows_over_budget"] = int((~frame["within_budget"].fillna(True).astype(bool)).sum())
    configs = configurations(frame)
    for match in verdict["matches"]:
        name = match["match"]
        for by_loss, suffix in ((False, "quality"), (True, "loss")):
            tally = counts(match["limits"], by_loss=by_loss)
            by_latency: Counter[str] = sum(
                (counts(one["limits"], by_loss=by_loss) for one in verdict["latency"] if one["match"] == name),
                Counter(),
            )
            for outcome in OUTCOMES:
                result[f"{name}_{outcome}_by_{suffix}"] = tally[outcome]
                if verdict["latency"]:
                    result[f"latency_{name}_{outcome}_by_{suffix}"] = by_latency[outcome]
        dense = configs[(configs["match"] == name) & is_dense(configs)]
        if dense["test_loss"].notna().any():
            result[f"{name}_best_dense_test_loss"] = float(dense["test_loss"].min())
        if dense["quality"].notna().any():
            result[f"{name}_best_dense_quality"] = float(dense["quality"].max())
    result |= {f"gflops_per_second_{size}": speed for size, speed in verdict["gflops_per_second"].items()}
    return result
