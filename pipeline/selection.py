"""Which configuration stands for each side at each byte limit, chosen on validation loss alone.

Torch-free and free of analysis/: the translate stage asks it which models need BLEU, the report asks it the same
question later, and both get the same answer. A configuration is (size, recipe) over its seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.budget import Budget
from pipeline.errors import StudyError
from pipeline.expected import SCRATCH
from pipeline.run_id import parse_run_id

BUDGET_TOLERANCE = 0.02
"""A row may exceed its budget by this fraction; beyond it, it is shown and never chosen."""

PRIMARY_MATCH = "seconds"
"""The match that fixes the byte limits; the other match uses the same ones."""

HEADER_SLACK_BYTES = 64
"""Files of one encoding differ by this at most: their headers hold sums, in as many digits as those happen to have."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen at one limit, of bytes or of milliseconds: config_ids, None where nothing of that side fits."""

    limit: float
    heavy: str | None
    light: str | None
    by_size: dict[str, str]


_MEASURED = (
    "bits",
    "sparsity",
    "params_total",
    "compression_ratio",
    "size_bytes",
    "valid_loss",
    "test_loss",
    "quality",
)


def rows_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows as a frame, one a model; a model that was not measured gets what its run_id says, and nulls.

    Adds `within_budget`: whether what the row's match counts (total_seconds or total_flops) stays below its budget plus
    `BUDGET_TOLERANCE`; null where unmeasured.
    """
    frame = pd.DataFrame([parse_run_id(str(row["run_id"])) | row for row in rows])
    if frame.empty:
        raise StudyError("no rows to compare; run the evaluate stage first")
    for column in (*_MEASURED, "total_seconds", "total_flops"):
        frame[column] = pd.to_numeric(frame[column]) if column in frame else np.nan
    if "budget" not in frame:
        frame["budget"] = None
    frame["within_budget"] = pd.array([_within_budget(row) for row in frame.to_dict("records")], dtype="boolean")
    return frame


def _within_budget(row: dict[str, Any]) -> bool | None:
    spent = row[f"total_{row['match']}"]
    if pd.isna(row["budget"]) or pd.isna(spent):
        return None
    budget = Budget.parse(row["budget"])
    if budget.resource != row["match"]:
        raise StudyError(
            f"{row['run_id']}: its budget {row['budget']!r} is not in {row['match']}; run its stages again"
        )
    return bool(spent <= budget.amount * (1 + BUDGET_TOLERANCE))


def configurations(frame: pd.DataFrame) -> pd.DataFrame:
    """Group a `rows_frame` to one line a (match, config_id), in the order of its rows: means over seeds.

    `size_bytes` is the largest of the seeds, `quality` is null when a seed lacks it, `run_ids` go by seed.
    `eligible` says that every seed is ok and within its budget, and that the recipe was given to every seed of each size
    that has it: a mean over the seeds that survived would flatter, and so would the luckiest of many recipes that are
    tried with one seed alone. Controls (`SCRATCH`) are never eligible.
    """
    records = []
    plain = frame[frame["teaching"].isna()]
    seeds = plain.groupby("size")["seed"].nunique()
    given = plain.groupby(["match", "recipe", "size"])["seed"].nunique().reset_index()
    lacking = given[given["seed"] < given["size"].map(seeds)]
    tried = set(zip(lacking["match"], lacking["recipe"], strict=True))
    for (match, config_id), group in frame.groupby(["match", "config_id"], sort=False):
        group = group.sort_values("seed")
        first = group.iloc[0]
        measured = group[group["status"] == "ok"]
        whole = len(measured) == len(group) and (pd.notna(first["teaching"]) or (match, first["recipe"]) not in tried)
        records.append(
            {
                "match": match,
                "config_id": config_id,
                **{name: first[name] for name in ("size", "method", "recipe", "teaching")},
                **{name: measured[name].max() for name in ("bits", "sparsity", "params_total", "size_bytes")},
                "compression_ratio": measured["compression_ratio"].min(),
                **{name: measured[name].mean() for name in ("valid_loss", "test_loss")},
                "quality": group["quality"].mean(skipna=False),
                "seeds": len(group),
                "run_ids": list(group["run_id"]),
                "eligible": bool(whole and first["recipe"] != SCRATCH and group["within_budget"].fillna(True).all()),
            }
        )
    return pd.DataFrame(records)


def _plain(configs: pd.DataFrame) -> pd.Series:
    return configs["eligible"] & configs["teaching"].isna()


def light(configs: pd.DataFrame) -> pd.Series:
    """Tell which configurations are lightly compressed: fp32, 16-bit or int8, neither pruned nor distilled."""
    quantized = (configs["method"] == "quantize") & (configs["bits"] >= 8)
    return _plain(configs) & ((configs["method"] == "none") | quantized)


def heavy(configs: pd.DataFrame) -> pd.Series:
    """Tell which are heavily compressed: at most 6 bits a weight or at least half pruned, and at least 5x smaller."""
    strong = (configs["bits"] <= 6) | (configs["sparsity"] >= 0.5)
    return _plain(configs) & strong & (configs["compression_ratio"] >= 5)


def light_first_study(configs: pd.DataFrame) -> pd.Series:
    """Tell which are lightly compressed by the first study's class: at most 2x."""
    return _plain(configs) & (configs["compression_ratio"] <= 2)


def heavy_first_study(configs: pd.DataFrame) -> pd.Series:
    """Tell which are heavily compressed by the first study's class: at least 4x."""
    return _plain(configs) & (configs["compression_ratio"] >= 4)


Side = Callable[[pd.DataFrame], pd.Series]

CLASSES: dict[str, tuple[Side, Side]] = {
    "int8_rival": (light, heavy),
    "first_study": (light_first_study, heavy_first_study),
}
"""(light, heavy) by the name of the definition; the first is this project's, the second Li et al. 2020's."""


def limits_bytes(frame: pd.DataFrame, count: int) -> list[int]:
    """Return `count` byte limits, geometric: int8 of the smallest size to int8 of the best uncompressed size.

    Best is by mean validation loss under `PRIMARY_MATCH`. Where the smallest size is itself the best, the limits run to
    the next larger size's int8 file instead, so that there is a range; a study of one size has one limit. StudyError
    when no size has both an fp32 and an int8 model that may be compared; it says which of the two is lacking.
    """
    configs = configurations(frame)
    matches = list(configs["match"].unique())
    match = PRIMARY_MATCH if PRIMARY_MATCH in matches else matches[0]
    here = configs[(configs["match"] == match) & _plain(configs)]
    eight = here[(here["method"] == "quantize") & (here["bits"] == 8)].drop_duplicates("size")  # the first such recipe
    int8 = eight.set_index("size")["size_bytes"].astype(int)
    dense = here[(here["recipe"] == "fp32") & here["size"].isin(int8.index)].set_index("size")["valid_loss"]
    if dense.empty:
        raise StudyError(f"match {match}: no size has both an fp32 and an int8 model; {_lacking(frame, match, here)}")
    int8 = int8[dense.index].sort_values()
    low, high = int(int8.iloc[0]), int(int8[dense.idxmin()])
    if high == low:
        high = int(int8.iloc[min(1, len(int8) - 1)])
    if high == low:
        return [low]
    inner = np.geomspace(low, high, count)[1:-1].round().astype(int)
    return [low, *map(int, inner), high]


def _lacking(frame: pd.DataFrame, match: str, eligible: pd.DataFrame) -> str:
    """Return why no size has a pair of an fp32 and an int8 model among the `eligible` configurations, and what to do."""
    whole = frame[(frame["match"] == match) & (frame["recipe"] == "fp32") & frame["teaching"].isna()]
    if (eligible["recipe"] == "fp32").any():
        return "quantize every size to 8 bits"
    lost = whole.loc[whole["status"] != "ok", "status"].value_counts()
    if lost.empty:
        return "every size's fp32 models overran their budget; run the pretrain stage again"
    told = ", ".join(f"{count} {status}" for status, count in lost.items())
    return (
        f"of {len(whole)} fp32 models {told}, so that no size has all of its seeds; lower the learning rate where models "
        "diverged, and run the stages again"
    )


def select(
    configs: pd.DataFrame,
    match: str,
    limits: Iterable[float],
    *,
    classes: str = "int8_rival",
    cost: str = "size_bytes",
    tolerance: float = 0.0,
) -> list[Choice]:
    """Choose at each limit of `cost` the heavy and the light configuration, and each size's, of best mean validation loss.

    A limit admits a configuration whose `cost` is at most that limit, plus a fraction of it where the cost is measured
    with noise; of bytes, the file of every seed fits. Nothing measured on the test set is looked at.
    """
    is_light, is_heavy = CLASSES[classes]
    here = configs[(configs["match"] == match) & _plain(configs)]
    ranked = here.sort_values(["valid_loss", cost, "config_id"])
    choices = []
    for limit in limits:
        fitting = ranked[ranked[cost] <= limit * (1 + tolerance)]
        sides = [fitting[side(fitting)] for side in (is_heavy, is_light)]
        best_heavy, best_light = (None if side.empty else str(side["config_id"].iloc[0]) for side in sides)
        best = fitting.groupby("size", sort=False)["config_id"].first()
        in_order = sorted(best.index, key=lambda size: fitting.loc[fitting["size"] == size, "params_total"].iloc[0])
        by_size = {str(size): str(best[size]) for size in in_order}
        choices.append(Choice(limit=limit, heavy=best_heavy, light=best_light, by_size=by_size))
    return choices


def rivals_of_students(configs: pd.DataFrame) -> dict[str, str | None]:
    """Return, for every eligible student configuration, the one it has to beat: the best that is no student and no larger file.

    Best is by mean validation loss under `PRIMARY_MATCH`, under which students are trained; None where nothing fits. A
    file larger by less than `HEADER_SLACK_BYTES` is no larger one, so that a student's plain twin is never left out.
    """
    here = configs[configs["match"] == PRIMARY_MATCH]
    ranked = here[_plain(here)].sort_values(["valid_loss", "size_bytes", "config_id"])
    rivals: dict[str, str | None] = {}
    for student in here[here["eligible"] & here["teaching"].notna()].itertuples():
        fitting = ranked.loc[ranked["size_bytes"] <= student.size_bytes + HEADER_SLACK_BYTES, "config_id"]
        rivals[str(student.config_id)] = None if fitting.empty else str(fitting.iloc[0])
    return rivals


def configurations_to_translate(frame: pd.DataFrame, entry: dict[str, Any]) -> list[str]:
    """Return the run_ids that need a test-set translation, in the order of `frame`.

    These are all seeds of what is chosen at any limit (either definition of the classes, the best of each size), all
    dense and distilled rows, the students' rivals, and one curve a size: of the primary match, the first seed's rows of
    recipes marked `curve`.
    `entry` gives `matches`, `recipes` and `limits` (their number).
    """
    configs = configurations(frame)
    limits = limits_bytes(frame, entry["limits"])
    chosen = {(PRIMARY_MATCH, rival) for rival in rivals_of_students(configs).values() if rival is not None}
    for match in entry["matches"]:
        for classes in CLASSES:
            for choice in select(configs, match, limits, classes=classes):
                names = [choice.heavy, choice.light, *choice.by_size.values()]
                chosen |= {(match, name) for name in names if name is not None}
    curve = {name for name, recipe in entry["recipes"].items() if recipe["curve"]}
    selected = [place in chosen for place in zip(frame["match"], frame["config_id"], strict=True)]
    first_seed = frame["seed"] == frame.groupby("size")["seed"].transform("min")
    drawn = frame["recipe"].isin(curve) & (frame["match"] == PRIMARY_MATCH) & first_seed
    wanted = pd.Series(selected, index=frame.index) | (frame["recipe"] == "fp32") | frame["teaching"].notna() | drawn
    return list(frame.loc[wanted & (frame["status"] == "ok"), "run_id"])
