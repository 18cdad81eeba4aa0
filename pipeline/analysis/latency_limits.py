"""The verdict's second ladder: at each limit of milliseconds a batch, heavily compressed against lightly compressed.

What a limit admits is told by the engine a model is deployed in, not by its file: no engine computes in fewer than 8 bits,
so a model of 3-bit weights runs as int8, as fast as an int8 model of its shape.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.ladder import MATCHED, described_side, ladder
from pipeline.analysis.measures import Measure
from pipeline.selection import PRIMARY_MATCH, configurations, light, select

LATENCY_TOLERANCE = 0.03
"""A limit admits what is slower by this fraction at most.

Two configurations of one shape in one engine do nearly the same work a step; what is left between their medians is the
noise of two timings, and hypotheses of other lengths. Without slack, that would decide which of them fits the limit that
the other one defines.
"""

Setting = tuple[int, int]
"""Threads, sentences a batch."""


def timed_settings(engines: pd.DataFrame) -> list[Setting]:
    """Return every (threads, batch) that an engines frame has latencies of: the smallest batch first, then threads."""
    timed = engines[engines["latency_ms_p50"].notna()]
    found = set(zip(timed["threads"], timed["batch"], strict=True))
    return sorted(((int(threads), int(batch)) for threads, batch in found), key=lambda setting: setting[::-1])


def deployed_configurations(frame: pd.DataFrame, engines: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Return the `pipeline.selection.configurations` that may stand at a latency limit of one setting.

    These are eligible, have a median of the engine they are deployed in, `latency_ms_p50` (milliseconds a batch, of their
    first seed that was timed), and for every seed the score of what that engine put out: `engine_quality` is their mean.
    Adds `engine`, its name.
    """
    timed = engines[engines["deployed"].astype(bool) & (engines["status"] == "ok") & engines["latency_ms_p50"].notna()]
    timed = timed[(timed["threads"] == setting[0]) & (timed["batch"] == setting[1])]
    first = timed.sort_values("seed").drop_duplicates(["match", "config_id"])
    grouped = frame.assign(engine_quality=frame["engine_quality"].astype("float64")).groupby(["match", "config_id"])
    scored = grouped["engine_quality"].mean().where(grouped["engine_quality"].count() == grouped["seed"].count())
    configs = configurations(frame)
    configs = configs[configs["eligible"] & configs["teaching"].isna()]
    configs = configs.merge(first[["match", "config_id", "engine", "latency_ms_p50"]], on=["match", "config_id"])
    configs = configs.merge(scored.rename("engine_quality").reset_index(), on=["match", "config_id"])
    return configs[configs["engine_quality"].notna()].reset_index(drop=True)


def limits_ms(frame: pd.DataFrame, deployed: pd.DataFrame, count: int) -> list[float]:
    """Return `count` latency limits, geometric: the fastest int8 model of a size to that of the best uncompressed size.

    `deployed` are the `deployed_configurations` of one setting; of theirs only light ones are looked at. Best is by mean
    validation loss under `PRIMARY_MATCH`; where that size is itself the fastest, the limits run to the next slower one.
    Milliseconds a batch, rounded up to whole microseconds so that the model that defines a limit fits it. None where no
    size has an int8 model that was timed: such a setting has no ladder.
    """
    configs = configurations(frame)
    here = deployed[(deployed["match"] == PRIMARY_MATCH) & light(deployed) & (deployed["bits"] == 8)]
    here = here[here["engine"].str.endswith("int8")]
    dense = configs[(configs["match"] == PRIMARY_MATCH) & configs["eligible"] & (configs["recipe"] == "fp32")]
    losses = dense[dense["teaching"].isna()].set_index("size")["valid_loss"]
    int8 = here.drop_duplicates("size").set_index("size")["latency_ms_p50"]  # the first such recipe, as of bytes
    int8 = int8[int8.index.isin(losses.index)].sort_values()
    if int8.empty:
        return []
    low, high = float(int8.iloc[0]), float(int8[losses[int8.index].idxmin()])
    if high == low:
        high = float(int8.iloc[min(1, len(int8) - 1)])
    steps = np.geomspace(low, high, count) if high > low else [low]
    return list(dict.fromkeys(math.ceil(round(1000 * float(step), 6)) / 1000 for step in steps))


def _side(deployed: pd.DataFrame, config_id: str) -> dict[str, Any]:
    row = deployed[deployed["config_id"] == config_id].iloc[0]
    return described_side(row) | {
        "quality": None if pd.isna(row["quality"]) else float(row["quality"]),
        "bits": None if pd.isna(row["bits"]) else int(row["bits"]),
        "engine": str(row["engine"]),
        "engine_quality": float(row["engine_quality"]),
        "latency_ms_p50": float(row["latency_ms_p50"]),
    }


def latency_verdict(
    frame: pd.DataFrame,
    engines: pd.DataFrame,
    entry: dict[str, Any],
    *,
    quality: Measure,
    loss: Measure,
    components: int,
) -> list[dict[str, Any]]:
    """Return one ladder a (match, setting), in the form of `latency` in verdict.json, of settings that have `limits_ms`.

    `quality` is of the engines' own output, column ``engine_quality`` of `frame`; `loss` of the weights that were written.
    Limits are those of the primary match for every match.
    """
    result = []
    for setting in timed_settings(engines):
        deployed = deployed_configurations(frame, engines, setting)
        limits = limits_ms(frame, deployed, entry["limits"])
        for match in entry["matches"] if limits else ():
            here = deployed[deployed["match"] == match]
            entries = ladder(
                select(here, match, limits, cost="latency_ms_p50", tolerance=LATENCY_TOLERANCE),
                match=match,
                unit="ms",
                side=functools.partial(_side, here),
                quality=quality,
                loss=loss,
                components=components,
            )
            result.append(
                {
                    "matched": MATCHED[match],
                    "match": match,
                    "budget": entry["budgets"][match],
                    "threads": setting[0],
                    "batch": setting[1],
                    "configurations": len(here),
                    "limits": entries,
                }
            )
    order = list(entry["matches"])
    return sorted(result, key=lambda one: order.index(one["match"]))
