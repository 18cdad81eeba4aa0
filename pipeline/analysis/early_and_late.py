"""The early and the late branch of one size, compressed alike and trained no further: does training make it harder?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.damage import added_to_parent
from pipeline.analysis.differences import compare, within_size
from pipeline.analysis.measures import Measure

_TRAINING = {"finetune", "distill", "qat"}
STRENGTH = ("kind", "bits", "embedding_bits", "granularity", "group_size", "activation_bits", "masked")
"""What two recipes have in common that do the same."""


def compressed_alike(frame: pd.DataFrame, recipes: dict[str, Any]) -> pd.DataFrame:
    """Return one line a (match, size, seed, strength) that both branches have: the `_early` and the `_late` of it.

    `recipes` are those of the report entry, which tell each recipe's `branch`; those that train are none. Columns are `added`
    (test loss in nats above the very model that was compressed), `run_id`, `parent` (the run_id of that model, or of the row
    that holds it untouched), `recipe` and `tokens_per_param`.
    """
    untouched = frame[(frame["kind"] == "none") & frame["parent_id"].notna()].drop_duplicates("parent_id")
    holders = untouched.set_index("parent_id")["run_id"]
    known = frame["parent_id"].isin(set(frame["run_id"]))
    rows = frame.assign(
        added=added_to_parent(frame),
        parent=frame["parent_id"].where(known, frame["parent_id"].map(holders)),
        masked=frame["sparsity"].astype("float64").round(2),
        branch=[recipes.get(recipe, {"branch": None})["branch"] for recipe in frame["recipe"]],
    )
    untrained = rows["kind"].str.split("+").map(lambda parts: _TRAINING.isdisjoint(parts)).astype(bool)
    rows = rows[
        (rows["status"] == "ok")
        & rows["teaching"].isna()
        & untrained
        & (rows["kind"] != "none")
        & rows["added"].notna()
    ]
    places = ["match", "size", "seed", *STRENGTH]
    # nulls are one value among others: two recipes that round nothing are alike in that
    rows = rows.assign(**{name: rows[name].astype(object).where(rows[name].notna(), None) for name in STRENGTH})
    columns = [*places, "added", "run_id", "parent", "recipe", "tokens_per_param"]
    early, late = (rows.loc[rows["branch"] == branch, columns].drop_duplicates(places) for branch in ("early", "full"))
    return early.merge(late, on=places, suffixes=("_early", "_late"))


def early_and_late(
    frame: pd.DataFrame, recipes: dict[str, Any], loss: Measure, *, components: int
) -> list[dict[str, Any]]:
    """Return one dict a (match, size, strength) of `compressed_alike`, in the form of verdict.json.

    `difference` is what the late branch loses more by than the early one, in nats: positive where training for longer makes a
    size harder to compress. Its interval is over seeds, pooled over the sizes that have both recipes, and test sentences.
    """
    pairs = compressed_alike(frame, recipes)
    names = ["match", "recipe_early", "recipe_late"]
    by_recipe: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for line in pairs.to_dict("records"):
        differences = by_recipe.setdefault(tuple(str(line[name]) for name in names), {})
        differences.setdefault(str(line["size"]), []).append(float(line["added_late"] - line["added_early"]))
    result = []
    for (match, size, early, late), group in pairs.groupby(["match", "size", *names[1:]], sort=False):
        draws = [
            (loss.draws(line["run_id_late"]) - loss.draws(line["parent_late"]))
            - (loss.draws(line["run_id_early"]) - loss.draws(line["parent_early"]))
            for line in group.to_dict("records")
        ]
        sides = [dict(zip(group["seed"], group[f"added_{side}"], strict=True)) for side in ("late", "early")]
        found = compare(
            *sides,
            resampled=np.mean(draws, axis=0),
            components=components,
            seed_variance=within_size(by_recipe[str(match), str(early), str(late)]),
        )
        first = group.iloc[0]
        result.append(
            {
                "match": str(match),
                "size": str(size),
                "kind": str(first["kind"]),
                "bits": None if first["bits"] is None else int(first["bits"]),
                "sparsity": None if first["masked"] is None else float(first["masked"]),
                "early": str(early),
                "late": str(late),
                "seeds": found.seeds,
                "tokens_per_param_early": float(group["tokens_per_param_early"].mean()),
                "tokens_per_param_late": float(group["tokens_per_param_late"].mean()),
                "added_early": float(group["added_early"].mean()),
                "added_late": float(group["added_late"].mean()),
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
            }
        )
    return result


def early_and_late_sentence(lines: list[dict[str, Any]]) -> str:
    """Return how often the late branch loses more, as one sentence."""
    if not lines:
        return "No recipe of this study does to an early branch, without training it further, what another does to the whole one."
    sure = [line for line in lines if line["low"] is not None and line["low"] * line["high"] > 0]
    more = sum(line["difference"] > 0 for line in lines)
    sure_more = sum(line["difference"] > 0 for line in sure)
    return (
        f"Compressed alike and trained no further, the model of a size's whole budget loses more than that of its early branch in "
        f"{more} of {len(lines)} cases (intervals without 0: {sure_more} more, {len(sure) - sure_more} less)."
    )
