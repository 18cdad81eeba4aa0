"""A model pruned to a smaller shape and recovered, beside that shape trained from scratch with the same total."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipeline.analysis.damage import is_dense
from pipeline.analysis.measures import Measure, difference
from pipeline.analysis.task_words import Words

_SHAPE = ["d_model", "num_layers", "num_heads", "ffn_dim"]


def same_shape(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one line a (match, config_id) that was pruned to the shape of another size of the grid: and `scratch`, that size.

    Quantized and masked models are none, nor are students: only whole parts may be gone, and every weight is in fp32.
    """
    good = frame[(frame["status"] == "ok") & frame["teaching"].isna()]
    dense = good[is_dense(good)].drop_duplicates("size").set_index("size")
    lines = []
    pruned = good[good["bits"].isna() & good["sparsity"].fillna(0).gt(0)]
    for (match, config_id), group in pruned.groupby(["match", "config_id"], sort=False):
        row = group.iloc[0]
        alike = (dense[_SHAPE] == row[_SHAPE].to_numpy()).all(axis=1) & (dense["params_total"] == row["params_kept"])
        lines += [
            {"match": match, "config_id": config_id, "kind": row["kind"], "size": row["size"], "scratch": size}
            for size in dense.index[alike]
            if size != row["size"]
        ]
    return pd.DataFrame(lines, columns=["match", "config_id", "kind", "size", "scratch"])


def from_scratch(frame: pd.DataFrame, by_loss: Measure, *, components: int) -> list[dict[str, Any]]:
    """Return, as JSON data, each pair of `same_shape` with the difference of test losses over their common seeds.

    The difference is scratch - pruned in nats a token: positive favours pruning the larger model. Pairs without a common
    seed are left out.
    """
    result = []
    for line in same_shape(frame).to_dict("records"):
        pruned, scratch = str(line["config_id"]), f"{line['scratch']}/fp32"
        here = [by_loss.scores.get((line["match"], name), {}) for name in (pruned, scratch)]
        wanted = [by_loss.run_ids.get((line["match"], name), {}) for name in (pruned, scratch)]
        if not set(here[0]) & set(here[1]) or [len(seeds) for seeds in here] != [len(seeds) for seeds in wanted]:
            continue
        found = difference(by_loss, str(line["match"]), pruned, scratch, components=components)
        result.append(
            {
                "match": line["match"],
                "pruned": pruned,
                "kind": line["kind"],
                "scratch": scratch,
                "difference": found.value,
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
                "seeds": found.seeds,
            }
        )
    return result


def from_scratch_sentence(pairs: list[dict[str, Any]], *, words: Words) -> str:
    """Return what the pairs say together, as one sentence."""
    if not pairs:
        return "No recipe of this study prunes a size to the shape of another."
    better = [pair for pair in pairs if pair["difference"] > 0]
    sure = [pair for pair in pairs if pair["low"] is not None and pair["low"] * pair["high"] > 0]
    sure_better = sum(pair["difference"] > 0 for pair in sure)
    return (
        f"Pruned from a larger size and recovered, a shape has a lower test loss than {words.trained_at_that_shape} with the same "
        f"total in {len(better)} of {len(pairs)} pairs (intervals without 0: {sure_better} lower, {len(sure) - sure_better} "
        "higher)."
    )
