"""How fast each size trained: why equal seconds and equal FLOPs can disagree."""

from __future__ import annotations

import pandas as pd

from pipeline.analysis.damage import is_dense


def gflops_per_second(frame: pd.DataFrame) -> dict[str, float]:
    """Return {size: training GFLOP a device second} of the dense rows, smallest size first."""
    dense = frame[is_dense(frame) & (frame["status"] == "ok") & (frame["train_seconds"] > 0)]
    dense = dense.sort_values("params_total", kind="stable")
    sums = dense.groupby("size", sort=False)[["train_flops", "train_seconds"]].sum()
    return {str(size): float(row["train_flops"] / row["train_seconds"] / 1e9) for size, row in sums.iterrows()}
