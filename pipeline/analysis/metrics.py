"""metrics.json: flat numbers for `dvc metrics show` and `dvc metrics diff`."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.claim import counts, matches_disagree
from pipeline.analysis.damage import is_dense
from pipeline.analysis.latency_claim import of_primary_setting, setting_of
from pipeline.selection import configurations

OUTCOMES = ("heavy", "light", "tie", "infeasible", "train_large")


def metrics(frame: pd.DataFrame, verdict: dict[str, Any]) -> dict[str, float | int]:
    """Return {name: number}: rows by status, limits won, the best dense loss and quality, GFLOP/s.

    Latency limits are those of the first setting that has a ladder, `latency_threads` and `latency_batch`.
    """
    result: dict[str, float | int] = {"matches_disagree": int(matches_disagree(verdict["matches"]))}
    by_latency = {one["match"]: one["limits"] for one in of_primary_setting(verdict["latency"])}
    if verdict["latency"]:
        result["latency_threads"], result["latency_batch"] = setting_of(verdict["latency"][0])
    for status, number in frame["status"].value_counts().items():
        result[f"rows_{status}"] = int(number)
    result["rows_over_budget"] = int((~frame["within_budget"].fillna(True).astype(bool)).sum())
    configs = configurations(frame)
    for match in verdict["matches"]:
        name = match["match"]
        for by_loss, suffix in ((False, "quality"), (True, "loss")):
            tally = counts(match["limits"], by_loss=by_loss)
            for outcome in OUTCOMES:
                result[f"{name}_{outcome}_by_{suffix}"] = tally[outcome]
            if name in by_latency:
                tally = counts(by_latency[name], by_loss=by_loss)
                result |= {f"latency_{name}_{outcome}_by_{suffix}": tally[outcome] for outcome in OUTCOMES}
        dense = configs[(configs["match"] == name) & is_dense(configs)]
        if dense["test_loss"].notna().any():
            result[f"{name}_best_dense_test_loss"] = float(dense["test_loss"].min())
        if dense["quality"].notna().any():
            result[f"{name}_best_dense_quality"] = float(dense["quality"].max())
    result |= {f"gflops_per_second_{size}": speed for size, speed in verdict["gflops_per_second"].items()}
    return result
