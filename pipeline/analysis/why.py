"""What a model's rounding error and the loss it adds go with: width, depth, or how long the model was trained."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.damage import added_to_dense, added_to_parent, one_grid
from pipeline.analysis.grids import ALIKE, with_proportions

BITS = (4, 3)
PRUNED = ("magnitude", "magnitude+finetune")
"""Kinds that mask weights by magnitude and do nothing else, but for training on."""
MEASURES = {"weight_error": "weight error", "added": "loss added"}
WEAK = 0.2
"""A tau closer to 0 than this is not called a rise or a fall."""
CAUSES = {
    "d_model": ("width", [*ALIKE["d_model"], "match", "branch", "seed"]),
    "num_layers": ("depth", [*ALIKE["num_layers"], "match", "branch", "seed"]),
    "tokens_per_param": ("tokens a parameter", ["size", "seed"]),
}
"""{column: (its name, what is equal within a stratum)}: two models are compared that differ in this alone."""


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows rounded to nearest, a grid a row of each matrix, to `BITS`, from either branch, with `branch`, `added`
    and `with_proportions`.

    `added` is the test loss in nats above the very model that was rounded.
    """
    rows = frame.assign(added=added_to_parent(frame))
    chosen = one_grid(rows) & (rows["kind"] == "uniform") & rows["bits"].isin(BITS) & rows["teaching"].isna()
    rows = rows[chosen & (rows["status"] == "ok")]
    full = rows["parent_id"].isin(set(frame["run_id"]))
    return with_proportions(rows).assign(branch=np.where(full, "full", "early"))


def pruned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `PRUNED` kinds, with `level`, the masked share, and `added`, the test loss in nats above fp32."""
    rows = frame.assign(added=added_to_dense(frame), level=frame["sparsity"].astype("float64").round(2))
    chosen = rows["kind"].isin(PRUNED) & rows["teaching"].isna() & (rows["status"] == "ok")
    return with_proportions(rows[chosen & rows["added"].notna()])


def stratified_tau(rows: pd.DataFrame, cause: str, measure: str, strata: list[str]) -> tuple[float | None, int]:
    """Return Kendall's tau over the pairs within strata that differ in `cause`, and how many pairs there are.

    1: the larger cause always has the larger measure; -1: never; ties in the measure count 0; None without a pair.
    Source: Kendall, A New Measure of Rank Correlation (Biometrika 1938), summed over strata.
    """
    signs: list[float] = []
    for _, group in rows.dropna(subset=[cause, measure]).groupby(strata, sort=False):
        x, y = group[cause].to_numpy(dtype=float), group[measure].to_numpy(dtype=float)
        first, second = np.triu_indices(len(x), 1)
        product = np.sign(x[first] - x[second]) * np.sign(y[first] - y[second])
        signs += list(product[x[first] != x[second]])
    return (float(np.mean(signs)), len(signs)) if signs else (None, 0)


def size_pairs(rows: pd.DataFrame, cause: str, measure: str, strata: list[str]) -> int:
    """Return how many pairs of sizes the pairs of `stratified_tau` are of."""
    found: set[frozenset[str]] = set()
    for _, group in rows.dropna(subset=[cause, measure]).groupby(strata, sort=False):
        for (one, x), (other, y) in combinations(zip(group["size"], group[cause], strict=True), 2):
            if x != y and one != other:
                found.add(frozenset((str(one), str(other))))
    return len(found)


def correlations(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return for every cause, measure and number of bits of `rounded` rows the `stratified_tau`, as JSON data."""
    result = []
    for cause, (_, strata) in CAUSES.items():
        for measure in MEASURES:
            for bits in BITS:
                tau, pairs = stratified_tau(rows[rows["bits"] == bits], cause, measure, strata)
                result.append({"cause": cause, "measure": measure, "bits": bits, "tau": tau, "pairs": pairs})
    return result


def _verb(tau: float) -> str:
    if abs(tau) < WEAK:
        return "hardly changes"
    return "rises" if tau > 0 else "falls"


def finding(found: list[dict[str, Any]], cause: str, measure: str) -> str:
    """Return what the correlations of one cause and one measure say, as a title; below `WEAK` they say little."""
    here = [one for one in found if (one["cause"], one["measure"]) == (cause, measure) and one["tau"] is not None]
    name = CAUSES[cause][0]
    if not here:
        return f"No two models differ in {name} alone"
    taus = [f"{one['tau']:+.2f} at {one['bits']} bits".replace("-", "\u2212") for one in here]
    verbs = list(dict.fromkeys(_verb(one["tau"]) for one in here))
    return f"With {name}, {MEASURES[measure]} {' or '.join(verbs)} (tau {', '.join(taus)})"
