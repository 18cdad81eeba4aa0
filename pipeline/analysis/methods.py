"""Every recipe in one table, and the methods that do the same thing side by side at the same strength."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.damage import added_to_dense, one_grid, whole_budget
from pipeline.expected import SCRATCH
from pipeline.selection import PRIMARY_MATCH

RIVALS = {
    "gptq": "uniform",
    "qat": "uniform",
    "quanto": "uniform, embedding fp32",
    "magnitude-global": "magnitude",
    "wanda": "magnitude",
    "magnitude-global+finetune": "magnitude+finetune",
    "wanda+finetune": "magnitude+finetune",
    "magnitude-once+finetune": "magnitude+finetune",
}
"""{kind: the kind that it is held against at the same bits or the same sparsity}."""


def methods_table(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a recipe under the primary match; recipes of one strength stand together, weakest first.

    Means over the ok rows of undistilled models: `compression_ratio`, `zstd_ratio` (bytes under zstd / bytes written) and
    `added`, the test loss in nats that is added to fp32 of the same seed, {size: mean over the seeds that have it}.
    """
    rows = frame.assign(added=added_to_dense(frame), zstd_ratio=frame["size_zstd_bytes"] / frame["size_bytes"])
    rows = rows[(rows["match"] == PRIMARY_MATCH) & rows["teaching"].isna() & (rows["status"] == "ok")]
    lines = []
    for recipe, group in rows[~rows["recipe"].isin(["fp32", SCRATCH])].groupby("recipe", sort=False):
        added = group.groupby("size", sort=False)["added"].mean().dropna()
        bits, sparsity = group["bits"].max(), group["sparsity"].mean()
        lines.append(
            {
                "recipe": str(recipe),
                "kind": group["kind"].iloc[0],
                "bits": None if pd.isna(bits) else int(bits),
                "sparsity": None if pd.isna(sparsity) else float(sparsity),
                "sizes": list(group["size"].unique()),
                "seeds": int(group.groupby("size")["seed"].nunique().max()),
                "compression_ratio": float(group["compression_ratio"].mean()),
                "zstd_ratio": float(group["zstd_ratio"].mean()),
                "added": {str(size): float(value) for size, value in added.items()},
            }
        )
    return sorted(lines, key=lambda line: (round(line["sparsity"] or 0, 2), -(line["bits"] or 32), line["kind"]))


def side_by_side(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict a (kind of `RIVALS`, strength): at how many sizes it adds less test loss than what it is held against.

    Paired by size and seed under the primary match; quantized models have one grid a row, in the embedding too. Only
    optimum-quanto, which leaves the embedding in fp32 and chooses its groups, is held against ours with such an embedding.
    `gain` is the mean over sizes of the loss in nats that it adds less.
    """
    rows = frame.assign(added=added_to_dense(frame), level=frame["bits"].astype("float64"))
    rows = rows[(rows["match"] == PRIMARY_MATCH) & rows["added"].notna() & whole_budget(rows)]
    masked = rows["bits"].isna() & rows["sparsity"].notna()
    rows["level"] = rows["level"].where(~masked, rows["sparsity"].round(2))
    unrounded = (rows["kind"] == "uniform") & rows["embedding_bits"].isna() & (rows["granularity"] == "row")
    rows["kind"] = rows["kind"].mask(unrounded, "uniform, embedding fp32")
    grids = one_grid(rows) | unrounded | (rows["kind"] == "quanto")
    rows = rows[(masked | grids) & rows["level"].notna()]
    keys = ["kind", "level", "size", "seed"]
    losses = rows.drop_duplicates(keys).set_index(keys)["added"]
    result = []
    for kind, against in RIVALS.items():
        if kind not in losses.index or against not in losses.index:
            continue
        pairs = pd.concat([losses.loc[against], losses.loc[kind]], axis=1, keys=["against", "kind"]).dropna()
        gains = (pairs["against"] - pairs["kind"]).groupby(["level", "size"], sort=False).mean()
        for level, by_size in gains.groupby("level"):
            result.append(
                {
                    "kind": kind,
                    "against": against,
                    "strength": f"{level:.0f} bits" if level >= 1 else f"{level:.0%} pruned",
                    "sizes": len(by_size),
                    "better": int((by_size > 0).sum()),
                    "gain": float(by_size.mean()),
                }
            )
    return result
